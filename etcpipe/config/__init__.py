"""Settings from files under /etc/etcpipe: defaults of the command's options."""

from etcpipe.config.files import FOLDER, Setting, read

__all__ = ["FOLDER", "Setting", "read"]
