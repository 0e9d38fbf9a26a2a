"""A read-only page on what runs on this machine; and the dashboard for Grafana."""
