"""The log in a database: who talked to which domain, address and port, as which user, when.

The view `connection_log` is the same on PostgreSQL, MariaDB and MySQL, and so are these queries:
only the data source differs. Grafana expands $__unixEpochFilter and $__unixEpochGroup for each, and
${name:sqlstring} into quoted and escaped text.
"""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from dashboards import links, variables
from dashboards.links import Uid
from dashboards.panels import Section, Stat, Table, Timeseries, dashboard
from dashboards.queries import Source, Sql

_FILTERS = ("sha256", "exe", "domain", "address", "port")
_BYTES = {"Sent": "bytes", "Received": "bytes"}
_SUMS = 'SUM(send) AS "Sent", SUM(recv) AS "Received", SUM(events) AS "Connections"'

# Port 0 and empty texts are what log.ports and log.addresses: false leave; -1 is an executable
# that never used the network (identity.every_exe).
_WHERE = """$__unixEpochFilter(contime)
  AND rport >= 0
  AND host IN (${host:sqlstring})
  AND (${sha256:sqlstring} = '' OR sha256 = ${sha256:sqlstring})
  AND (${exe:sqlstring} = '' OR exe = ${exe:sqlstring})
  AND (${domain:sqlstring} = '' OR domain = ${domain:sqlstring}
    OR LEFT(domain, CHAR_LENGTH(${domain:sqlstring}) + 1) = CONCAT(${domain:sqlstring}, '.'))
  AND (${address:sqlstring} = '' OR raddr = ${address:sqlstring})
  AND (${port:sqlstring} = '' OR CONCAT(rport, '') = ${port:sqlstring}
    OR CONCAT(lport, '') = ${port:sqlstring})"""


def build(uid: Uid, source: Source) -> Dashboard:
    """The dashboard for one kind of database."""
    kind = "PostgreSQL" if source is Source.POSTGRESQL else "MySQL, MariaDB"
    texts = {
        "sha256": ("SHA-256", "64 hexadecimal digits; empty for all"),
        "exe": ("Path", "The whole path of the executable; empty for all"),
        "domain": ("Domain", "Reversed, with its subdomains: com.example; empty for all"),
        "address": ("Address", "Of the peer; empty for all"),
        "port": ("Port", "Remote or local; empty for all"),
    }
    return dashboard(
        uid,
        f"Log ({kind})",
        f"The connection log in {kind}: domains, addresses, ports, users, executables over time. "
        "Needs `DB sql server` in the exporter's configuration.",
        variables=[
            variables.datasource(source),
            variables.sql(
                "host",
                "Host",
                "SELECT DISTINCT host FROM connection_log WHERE $__unixEpochFilter(contime)"
                " ORDER BY host",
                source=source,
            ),
            *(variables.text(name, *texts[name]) for name in _FILTERS),
        ],
        sections=[_over_time(source), _tops(uid, source), _rows(source)],
        span="now-1h",
    )


def _select(columns: str, *, source: Source, after: str = "") -> Sql:
    return Sql(f"SELECT {columns}\nFROM connection_log\nWHERE {_WHERE}{after}", source)


def _over_time(source: Source) -> Section:
    after = "\nGROUP BY 1\nORDER BY 1"
    group = "$__unixEpochGroup(contime, $__interval) AS time"
    return Section(
        title="Over time",
        panels=[
            Stat(
                title="Sent",
                description="Payload bytes of all rows that fit the filters.",
                queries=[_select('SUM(send) AS "Sent"', source=source)],
                unit="bytes",
            ),
            Stat(
                title="Received",
                description="Payload bytes of all rows that fit the filters.",
                queries=[_select('SUM(recv) AS "Received"', source=source)],
                unit="bytes",
            ),
            Stat(
                title="Connections",
                description="Connections and datagram peers of all rows that fit the filters.",
                queries=[_select('SUM(events) AS "Connections"', source=source)],
            ),
            Stat(
                title="Executables",
                description="Different hashes in the rows that fit the filters.",
                queries=[_select('COUNT(DISTINCT sha256) AS "Executables"', source=source)],
            ),
            Stat(
                title="Peers",
                description="Different remote addresses in the rows that fit the filters.",
                queries=[_select('COUNT(DISTINCT raddr) AS "Peers"', source=source)],
            ),
            Stat(
                title="Domains",
                description="Different domains in the rows that fit the filters.",
                queries=[_select('COUNT(DISTINCT domain) AS "Domains"', source=source)],
            ),
            Timeseries(
                title="Bytes",
                description="Bytes per interval of the chart, by the time at which rows were "
                "written.",
                queries=[
                    _select(
                        f'{group}, SUM(send) AS "Sent", SUM(recv) AS "Received"',
                        source=source,
                        after=after,
                    )
                ],
                unit="bytes",
            ),
            Timeseries(
                title="Connections",
                description="Connections and datagram peers per interval of the chart.",
                queries=[
                    _select(f'{group}, SUM(events) AS "Connections"', source=source, after=after)
                ],
                unit="short",
            ),
        ],
    )


def _tops(uid: Uid, source: Source) -> Section:
    def top(columns: str, by: str, condition: str = "") -> Sql:
        after = f"{condition}\nGROUP BY {by}\nORDER BY SUM(send) + SUM(recv) DESC\nLIMIT 100"
        return _select(f"{columns}, {_SUMS}", source=source, after=after)

    value = "${__value.text}"
    here = {
        "Domain": links.in_log(uid, "Only this domain", {"domain": value}),
        "Address": links.in_log(uid, "Only this address", {"address": value}),
        "Port": links.in_log(uid, "Only this port", {"port": value}),
    }
    hashes = {
        "sha256": (
            *links.to_executable(value, from_metrics=False)[:1],
            *links.in_log(uid, "Only this executable", {"sha256": value}),
        )
    }
    return Section(
        title="By whom and with whom",
        panels=[
            Table(
                title="Executables",
                description="The hundred that moved most. Click a hash for its metrics or rows.",
                columns={"Rows": top("exe, sha256", "exe, sha256")},
                units=_BYTES,
                links=hashes,
                span=12,
            ),
            Table(
                title="Domains",
                description="By the name under which the peer was looked up, in reversed notation. "
                "Empty where none is known.",
                columns={"Rows": top('domain AS "Domain"', "domain")},
                units=_BYTES,
                links=here,
                span=12,
            ),
            Table(
                title="Addresses",
                description="Peers, with the domain that was looked up for them.",
                columns={"Rows": top('raddr AS "Address", domain AS "Domain"', "raddr, domain")},
                units=_BYTES,
                links=here,
                span=12,
            ),
            Table(
                title="Ports",
                description="Remote ports of what was opened here, local ports of what was "
                "accepted.",
                columns={
                    "Rows": top(
                        "protocol, direction, CASE direction WHEN 'inbound' THEN lport ELSE rport"
                        ' END AS "Port"',
                        "1, 2, 3",
                    )
                },
                units={**_BYTES, "Port": "none"},
                links=here,
                span=12,
            ),
            Table(
                title="Users",
                description="By user id on each host, with the executable.",
                columns={"Rows": top("host, uid, exe", "host, uid, exe")},
                units={**_BYTES, "uid": "none"},
                span=12,
            ),
            Table(
                title="Parents",
                description="Which program started the executable that talked.",
                columns={"Rows": top("pexe, psha256, exe", "pexe, psha256, exe")},
                units=_BYTES,
                links={"psha256": links.to_executable(value, from_metrics=False)[:1]},
                span=12,
            ),
        ],
    )


def _rows(source: Source) -> Section:
    columns = (
        'contime * 1000 AS "Time", host, exe, name, cmdline, uid, protocol, direction, domain,'
        ' raddr, rport, laddr, lport, send AS "Sent", recv AS "Received", events,'
        " pexe, gpexe, container, sha256"
    )
    return Section(
        title="Rows",
        panels=[
            Table(
                title="Latest connections",
                description="The last 500 rows that fit the filters, newest first.",
                columns={
                    "Rows": _select(
                        columns, source=source, after="\nORDER BY contime DESC\nLIMIT 500"
                    )
                },
                units={
                    **_BYTES,
                    "Time": "dateTimeAsLocal",
                    "uid": "none",
                    "lport": "none",
                    "rport": "none",
                },
                links={
                    "sha256": links.to_executable("${__value.text}", from_metrics=False)[:1],
                },
                height=16,
            ),
        ],
    )
