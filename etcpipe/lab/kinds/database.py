"""PostgreSQL over TLS: pgbench transactions, and somebody with psql."""

import shutil

from etcpipe.lab.certificates import make_certificate
from etcpipe.lab.kind import MARKER, Client, Kind, Site, command
from etcpipe.lab.processes import Program

PORT = 5432
USER = "postgres"  # the server refuses root
CONFIGURATION = """
listen_addresses = '{listen}'
port = {port}
unix_socket_directories = '{folder}'
ssl = on
ssl_cert_file = '{chain}'
ssl_key_file = '{key}'
shared_buffers = 16MB
max_connections = 60
fsync = off
"""
ACCESS = "local all all trust\nhostssl all all 0.0.0.0/0 trust\nhostssl all all ::/0 trust\n"
STATEMENTS = (
    "SELECT count(*) FROM pgbench_accounts WHERE aid < {n};",
    "SELECT * FROM pgbench_accounts ORDER BY aid LIMIT {n};",
    "UPDATE pgbench_tellers SET tbalance = tbalance + {n} WHERE tid = 1;",
    "SELECT '" + MARKER.decode().strip() + "', repeat('x', {n});",
    "SELECT * FROM pg_class LIMIT {n};",
    "BEGIN; UPDATE pgbench_branches SET bbalance = {n}; COMMIT;",
)


def serve(site: Site) -> None:
    """Start a server of its own cluster, filled by pgbench over its local socket."""
    certificate = make_certificate(site)
    folder = site.folder
    for path in (folder, certificate.chain, certificate.key):
        shutil.chown(path, USER, USER)
    certificate.key.chmod(0o600)
    cluster = folder / "cluster"
    site.run(
        command(
            "initdb -D {cluster} -U {user} -A trust --no-sync -E UTF8 --locale=C",
            cluster=cluster,
            user=USER,
        ),
        user=USER,
    )
    with (cluster / "postgresql.conf").open("a") as file:
        file.write(
            CONFIGURATION.format(
                listen=",".join(site.addresses),
                port=PORT,
                folder=folder,
                chain=certificate.chain,
                key=certificate.key,
            )
        )
    (cluster / "pg_hba.conf").write_text(ACCESS)
    site.start(
        ["postgres", "-D", str(cluster)],
        *[("tcp", address, PORT) for address in site.addresses],
        says="ready to accept connections",
        user=USER,
    )
    rows = int(site.rng.integers(1, 3))
    connect = ["-h", str(folder), "-p", str(PORT), "-U", USER]
    site.run(["pgbench", "-i", "-q", "-n", "-s", str(rows), *connect, USER])


def visit(client: Client, served: None) -> None:
    """Run transactions as an application does, or a few statements as a person does."""
    connect = ["-h", client.address, "-p", str(PORT), "-U", USER]
    tls = {"PGSSLMODE": "require"}
    if client.rng.random() < 0.5:
        client.run(
            command(
                "pgbench -n -b {script} -c {connections} -T {seconds} -R {rate:.1f}"
                " {connect} {user}",
                script=client.rng.choice(["tpcb-like", "simple-update", "select-only"]),
                connections=client.rng.integers(1, 4),
                seconds=client.rng.integers(1, 4),
                rate=client.rng.uniform(5, 100),
                connect=connect,
                user=USER,
            ),
            environment=tls,
        )
        return
    psql = client.start_typing(["psql", "-X", "-q", *connect, USER], environment=tls)
    for _ in range(int(client.rng.integers(2, 9))):
        statement = str(client.rng.choice(STATEMENTS))
        psql.write(statement.format(n=int(client.rng.lognormal(4.5, 1.2)) + 1) + "\n")
        client.pause(client.rng.exponential(0.25))
    psql.finish()


KINDS = (
    Kind(
        name="postgresql_tls",
        summary="database transactions and queries with TLS (PostgreSQL)",
        programs=(
            Program("postgres", "postgresql"),
            Program("initdb", "postgresql"),
            Program("pgbench", "postgresql"),
            Program("psql", "postgresql-client"),
        ),
        endpoints=(("tcp", PORT),),
        serve=serve,
        visit=visit,
    ),
)
