//! Every key, its type, default, unit and meaning: `ftagent config default` and `docs/CONFIG.md`
//! are written from this table, and unknown keys are told by it.

mod beyond;
mod people;

use std::fmt::Write as _;

use super::raw::{Raw, RawAlertSink, RawFeed, RawMaintenance, RawRung, RawScrub};

/// A section of the file.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// Its name; that of an array of tables ends in `[]`.
    pub name: &'static str,
    /// What it is about.
    pub doc: &'static str,
    /// Its keys.
    pub keys: &'static [Key],
}

/// A key of the file.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// The TOML path; `feeds[].name` for the elements of an array of tables.
    pub path: &'static str,
    /// The type, as a noun with its article.
    pub kind: &'static str,
    /// The unit; empty where there is none.
    pub unit: &'static str,
    /// What it does.
    pub doc: &'static str,
    /// A value for keys that must be written; empty for those with a default.
    pub sample: &'static str,
    /// When one of the former need not be written; empty: always needed.
    pub unless: &'static str,
}

const fn row(path: &'static str, kind: &'static str, unit: &'static str, doc: &'static str) -> Key {
    Key { path, kind, unit, doc, sample: "", unless: "" }
}

const DURATION: &str = "a duration";
const SWITCH: &str = "true or false";
const TEXT: &str = "a string";
const NUMBER: &str = "a number";
const SIZE: &str = "a size";
const PREFIXES: &str = "a list of addresses and prefixes";

/// The whole file, in the order in which it is printed.
pub const SECTIONS: &[Section] = &[
    Section {
        name: "interfaces",
        doc: "Where the agent attaches.",
        keys: &[
            row(
                "interfaces.names",
                "a list of strings",
                "",
                "The interfaces to protect, at most 16. \"auto\" is the interface of the default route. For a \
                 bond name its slaves, for a VLAN device its parent: `ftagent doctor` says which.",
            ),
            row(
                "interfaces.mode",
                "\"native\" or \"generic\"",
                "",
                "\"native\" runs in the driver and fails where the driver cannot. \"generic\" works with every \
                 driver, several times slower; it is never chosen silently.",
            ),
        ],
    },
    Section {
        name: "paths",
        doc: "Where things are kept. All paths are absolute.",
        keys: &[
            row("paths.bpffs", TEXT, "", "Directory for pinned maps and links; it lies on a BPF file system."),
            row(
                "paths.state",
                TEXT,
                "",
                "Directory for what outlives a restart. Where it cannot be written, the daemon protects, keeps nothing and says so.",
            ),
            row("paths.socket", TEXT, "", "The control socket that the command line talks to."),
        ],
    },
    Section {
        name: "metrics",
        doc: "The listener for /metrics (Prometheus) and /healthz.",
        keys: &[
            row("metrics.enabled", SWITCH, "", "Whether the agent listens."),
            row(
                "metrics.listen",
                "an address and a port",
                "",
                "Where it listens: a loopback address. Port 0 takes a free one, which the log names.",
            ),
        ],
    },
    Section {
        name: "block",
        doc: "How long blocks and rules last that operators make.",
        keys: &[
            row("block.default_duration", DURATION, "", "The duration of a block or rule for which none is given."),
            row("block.max_duration", DURATION, "", "The longest that may be asked for; at most 365 days."),
        ],
    },
    Section {
        name: "feed",
        doc: "How block-list files are treated.",
        keys: &[
            row(
                "feed.ttl",
                DURATION,
                "",
                "How long feed entries go on being dropped once the daemon is gone. While it lives it renews them.",
            ),
            row("feed.reload_interval", DURATION, "", "How often the files are looked at for changes."),
        ],
    },
    Section {
        name: "lists",
        doc: "Entries that hold for as long as they are written here. IPv4 prefixes are /8 or longer, IPv6 /16.",
        keys: &[
            row("lists.allow", PREFIXES, "", "Never dropped, whatever else says so."),
            row("lists.block", PREFIXES, "", "Always dropped, unless allowed."),
        ],
    },
    Section {
        name: "services",
        doc: "The UDP services of this host: traffic to them is not mistaken for reflected answers.",
        keys: &[
            row("services.udp", "a list of ports", "", "Ports that are services even while nothing listens on them."),
            row("services.detect", SWITCH, "", "Whether the ports on which this host listens count as well."),
        ],
    },
    Section {
        name: "sampling",
        doc: "How many packets the kernel shows to the daemon. Counters are exact and not affected.",
        keys: &[
            row(
                "sampling.rate_pps",
                NUMBER,
                "samples per second",
                "The rate to aim at, over all classes and CPUs, 1 to 1000000.",
            ),
            row(
                "sampling.burst",
                NUMBER,
                "samples",
                "The most of one class on one CPU in one jiffy (1 to 10 ms), 1 to 65535.",
            ),
        ],
    },
    Section {
        name: "probation",
        doc: "The agent detaches again where attaching silences an interface.",
        keys: &[
            row("probation.enabled", SWITCH, "", "Whether it does."),
            row("probation.window", DURATION, "", "How long the silence is watched; 1 s to 10 min."),
        ],
    },
    Section {
        name: "learning",
        doc: "How the agent learns what is normal here. There are no thresholds to tune.",
        keys: &[row(
            "learning.trust_after",
            DURATION,
            "",
            "How long traffic is watched before the baseline is trusted; 1 s to 30 days. Until then \
             only what no node has any business receiving, and what the packets alone prove, is an attack.",
        )],
    },
    Section {
        name: "mitigation",
        doc: "What the agent may do by itself. Block lists are enforced in every mode.",
        keys: &[
            row(
                "mitigation.mode",
                "\"auto\", \"observe\" or \"enforce\"",
                "",
                "\"auto\" observes while the node is unknown and enforces once its baseline is trusted. \"observe\" \
                 decides and drops nothing. \"enforce\" acts at once.",
            ),
            row(
                "mitigation.plane",
                "\"xdp\" or \"nftables\"",
                "",
                "What puts rules into force: the kernel program, or a table of nftables (docs/planes/nftables.md). Packets \
                 are counted and sampled by the kernel program either way; with \"nftables\", an interface where it \
                 cannot be attached gets block lists and operators' rules without it. A restart applies it.",
            ),
        ],
    },
    beyond::UPLINK,
    beyond::LADDER,
    beyond::RUNGS,
    Section {
        name: "remote",
        doc: "A copy of what was recorded of incidents that are over, in S3-compatible storage.",
        keys: &[
            row("remote.endpoint", TEXT, "", "The store, as \"https://s3.example.net\"; empty: nothing is copied."),
            row("remote.bucket", TEXT, "", "The bucket; it must exist."),
            row("remote.prefix", TEXT, "", "What the names of objects begin with: \"node1\"."),
            row("remote.region", TEXT, "", "The region that signatures name."),
            row("remote.path_style", SWITCH, "", "Whether the bucket is in the path instead of the host name."),
            row(
                "remote.credentials",
                TEXT,
                "",
                "A file that only its owner can read, with the lines `access_key_id = …` and `secret_access_key = …`; \
                 systemd's LoadCredential= makes one.",
            ),
            row(
                "remote.ca_file",
                TEXT,
                "",
                "Certificates (PEM) that the store's is signed by; empty: those of public authorities.",
            ),
            row(
                "remote.part_mib",
                NUMBER,
                "MiB",
                "Larger files go in parts of this size, 5 to 1024, and go on where they broke.",
            ),
        ],
    },
    beyond::BGP,
    Section {
        name: "audit",
        doc: "The audit log, in `audit` below `paths.state`: who did what, chained and signed; see docs/AUDIT.md.",
        keys: &[
            row("audit.enabled", SWITCH, "", "Whether there is one."),
            row("audit.checkpoint_lines", NUMBER, "lines", "Lines from one signature to the next at most."),
            row(
                "audit.checkpoint_interval",
                DURATION,
                "",
                "How long a line waits for a signature at most. Until then, who can write the file could change it.",
            ),
            row("audit.segment_mib", NUMBER, "MiB", "A file that is larger is ended; so is that of yesterday (UTC)."),
            row("audit.retention_days", NUMBER, "days", "Older files are removed, and the log says so."),
            row(
                "audit.on_failure",
                "\"act\" or \"refuse\"",
                "",
                "What becomes of an operator's act that cannot be logged: \"act\" does it and warns, \"refuse\" does not \
                 do it. What the daemon does about attacks on this host never waits for the log. What it asks of BGP daemons \
                 and providers does, as an operator's act; what it takes back there never does.",
            ),
            row(
                "audit.append_only",
                SWITCH,
                "",
                "Whether files are made append-only (`chattr +a`), where the file system and the capabilities allow.",
            ),
        ],
    },
    Section {
        name: "capture",
        doc: "What is kept of attacks: sampled packets, dropped ones included, from before an incident opens until it \
              is over, in `paths.state`/captures. A change takes effect at the next start. `ftagent capture` lists, \
              shows and exports what is there.",
        keys: &[
            row("capture.enabled", SWITCH, "", "Whether anything is recorded."),
            row("capture.memory", SIZE, "", "What the last seconds may take in memory; 1 MiB to 16 GiB."),
            row("capture.pre_roll", DURATION, "", "How long before the incident a capture begins; up to a minute."),
            row(
                "capture.incident_bytes",
                SIZE,
                "",
                "The most that the packets of one incident take on disk; 1 MiB to 1 TiB. From half of it on, classes \
                 share what is left and floods are thinned, from three quarters on only headers are kept.",
            ),
            row(
                "capture.journal_bytes",
                SIZE,
                "",
                "The most that the journal of one incident takes on disk: what decisions were made of, so that they can \
                 be replayed; 1 MiB to 4 GiB: a capsule has no more, and what is above counts as that. An incident that needs more is replayed up to \
                 there. Each life of the daemon in it has a journal of its own (docs/CAPSULE.md). \"0 B\": no journal, \
                 and nothing can be replayed.",
            ),
            row(
                "capture.payload",
                "\"classify\", \"headers\" or \"full\"",
                "",
                "What of a packet is kept in `capture.pcapng.zst`: its headers and the 64 bytes behind them that decisions \
                 look at, its headers alone, or all that is sampled (128 bytes of the frame). This is about that file \
                 alone. The journal (`ticks.ftj.zst`) has the 128 bytes of every sample whatever is said here, and the \
                 core beside it (`state.mp.zst`) the beginnings of clean payloads: without them, what was decided cannot \
                 be decided again. `indicators.json` has the first 32 bytes of payloads that recur. With \
                 `journal_bytes = \"0 B\"` and `indicators.enabled = false` none of these is written.",
            ),
            row("capture.keep_days", NUMBER, "days", "For how long a capture is kept, 1 to 3650."),
            row(
                "capture.keep_bytes",
                SIZE,
                "",
                "What all captures may take on disk; the oldest go first, the latest that is complete never for want of room.",
            ),
            row(
                "capture.min_free",
                SIZE,
                "",
                "What stays free on that disk: below it the oldest captures go, the latest that is complete never. What is on \
                 legal hold never goes. What was removed is in the audit log, and for a day in `status`.",
            ),
        ],
    },
    Section {
        name: "indicators",
        doc: "The patterns of attack tools that samples are compared with, and what is written down of an \
              incident's packets. docs/INDICATORS.md has the format.",
        keys: &[
            row("indicators.enabled", SWITCH, "", "Whether indicators of incidents are collected."),
            row(
                "indicators.paths",
                "a list of strings",
                "",
                "Files of patterns, and directories whose files end in .toml, beside the patterns that are part of the \
                 program. They are read again when they change; what is not there has nothing to say.",
            ),
        ],
    },
    people::ALERTS,
    people::SINKS,
    people::MAINTENANCE,
    Section {
        name: "log",
        doc: "The agent's own log, on standard error.",
        keys: &[
            row(
                "log.level",
                "\"error\", \"warn\", \"info\", \"debug\" or \"trace\"",
                "",
                "The least severe level that is written.",
            ),
            row("log.format", "\"text\" or \"json\"", "", "Lines for people, or one JSON object per line."),
        ],
    },
    Section {
        name: "feeds[]",
        doc: "A block-list file, one address or prefix per line, comments after # or ;. Repeat the section for \
              each file. A file that changes by more than half is held until `ftagent feeds confirm NAME`.",
        keys: &[
            Key { sample: "\"drop\"", ..row("feeds[].name", TEXT, "", "Its name: a-z, 0-9, _ and -.") },
            Key { sample: "\"/etc/ftagent/drop.txt\"", ..row("feeds[].path", TEXT, "", "The file.") },
        ],
    },
    beyond::SCRUB,
];

impl Key {
    /// Returns the name without its section.
    pub fn name(&self) -> &'static str {
        self.path.rsplit_once('.').map_or(self.path, |(_, name)| name)
    }

    /// Returns the default as TOML writes it; `None` where the key must be written.
    pub fn default_value(&self) -> Option<String> {
        defaults().get(self.path).filter(|_| self.sample.is_empty()).map(ToString::to_string)
    }

    /// Says what holds where the key is not written.
    fn absent(&self) -> String {
        match (self.default_value(), self.unless) {
            (Some(value), _) => format!("`{value}`"),
            (None, "") => "must be written".to_owned(),
            (None, unless) => format!("must be written, unless {unless}"),
        }
    }

    /// Returns the default, or a sample value where there is none.
    pub fn example(&self) -> String {
        self.default_value().unwrap_or_else(|| self.sample.to_owned())
    }
}

/// Returns the defaults by path; of the keys of arrays of tables those that need not be written.
fn defaults() -> std::collections::BTreeMap<String, toml::Value> {
    let mut all = leaves(&Raw::default(), "");
    all.retain(|path, _| !is_array(path));
    all.extend(leaves(&RawFeed::default(), "feeds[]"));
    all.extend(leaves(&RawScrub::default(), "scrub[]"));
    all.extend(leaves(&RawRung::default(), "ladder.rungs[]"));
    all.extend(leaves(&RawAlertSink::default(), "alerts.sinks[]"));
    all.extend(leaves(&RawMaintenance::default(), "alerts.maintenance[]"));
    all
}

/// Returns whether a path is that of an array of tables.
fn is_array(path: &str) -> bool {
    SECTIONS.iter().any(|section| section.name.strip_suffix("[]") == Some(path))
}

/// Returns what serialises below a prefix, by path; elements of empty arrays of tables are none.
fn leaves<T: serde::Serialize>(value: &T, prefix: &str) -> std::collections::BTreeMap<String, toml::Value> {
    let mut leaves = std::collections::BTreeMap::new();
    let mut pending = vec![(prefix.to_owned(), toml::Value::try_from(value).ok())];
    while let Some((path, value)) = pending.pop() {
        match value {
            Some(toml::Value::Table(table)) => pending.extend(
                table
                    .into_iter()
                    .map(|(key, value)| (if path.is_empty() { key } else { format!("{path}.{key}") }, Some(value))),
            ),
            Some(value) => drop(leaves.insert(path, value)),
            None => {}
        }
    }
    leaves
}

/// Returns every path that the raw types know, arrays of tables as their elements.
pub fn raw_paths() -> Vec<String> {
    defaults().into_keys().collect()
}

/// Returns every key.
pub fn keys() -> impl Iterator<Item = &'static Key> {
    SECTIONS.iter().flat_map(|section| section.keys)
}

/// Returns a path with its indices taken out: `feeds[1].name` becomes `feeds[].name`; that of an
/// element of a list is that of the list.
pub fn plain(path: &str) -> String {
    let mut plain = String::with_capacity(path.len());
    for (i, part) in path.split('.').enumerate() {
        let part = part.split_once('[').map_or(part, |(name, _)| name);
        if i > 0 {
            plain.push('.');
        }
        plain.push_str(part);
        if is_array(&plain) {
            plain.push_str("[]");
        }
    }
    plain
}

/// Returns the key at a path; indices do not matter.
pub fn key(path: &str) -> Option<&'static Key> {
    let plain = plain(path);
    keys().find(|key| key.path == plain)
}

/// Returns whether a path is a key or a section.
pub fn knows(path: &str) -> bool {
    let plain = plain(path);
    SECTIONS.iter().any(|section| section.name == plain) || key(path).is_some()
}

/// Returns every path that can be written: sections and keys, without indices.
pub fn paths() -> impl Iterator<Item = &'static str> {
    SECTIONS.iter().map(|section| section.name).chain(keys().map(|key| key.path))
}

/// Returns the commented file with every key at its default, which `ftagent config default`
/// prints.
pub fn default_text() -> String {
    let mut text = String::from(
        "# ftagent configuration. Keys that are left out keep the default, shown here; elements of [[...]]\n\
         # have some that must be written.\n\
         # After a change: `ftagent config check`, then `systemctl reload ftagent`.\n",
    );
    for section in SECTIONS {
        text.push('\n');
        comment(&mut text, section.doc);
        let (open, close, mark) = match section.name.strip_suffix("[]") {
            Some(_) => ("[[", "]]", "#"),
            None => ("[", "]", ""),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{mark}{open}{}{close}", section.name.trim_end_matches("[]"));
        for key in section.keys {
            let unit = if key.unit.is_empty() { String::new() } else { format!(" Unit: {}.", key.unit) };
            let must = if key.sample.is_empty() { String::new() } else { format!(" {}.", capital(&key.absent())) };
            comment(&mut text, &format!("{} ({}.{unit}{must})", key.doc, capital(key.kind)));
            let _ = writeln!(text, "{mark}{} = {}", key.name(), key.example());
        }
    }
    text
}

/// Appends a comment, wrapped at 100 columns.
fn comment(text: &mut String, doc: &str) {
    let mut width = usize::MAX;
    for word in doc.split_whitespace() {
        if width.saturating_add(word.len() + 1) > 100 {
            if width != usize::MAX {
                text.push('\n');
            }
            text.push('#');
            width = 1;
        }
        text.push(' ');
        text.push_str(word);
        width += word.len() + 1;
    }
    text.push('\n');
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// Returns the reference as Markdown: `docs/CONFIG.md`.
pub fn markdown() -> String {
    let mut text = String::from(
        "# Configuration\n\n\
         Written by the code (`ftagent/src/config/reference.rs`); change it there.\n\n\
         The file is `/etc/ftagent/ftagent.toml`. An empty one is valid: only elements of `[[…]]` have keys that must \
         be written. A key that is \
         not known is an error that names the line and the nearest known key. Durations are a number and a unit: \
         `500ms`, `10m`, `1h 30m`, `30d`; sizes are a number and a unit: `64 MiB`, `10 GB`. `ftagent config check` checks a file, `ftagent config default` prints one \
         with every key, SIGHUP makes the daemon read it again: it takes the new one as a whole, or keeps the old \
         one and says why.\n",
    );
    for section in SECTIONS {
        let title = match section.name.strip_suffix("[]") {
            Some(name) => format!("[[{name}]]"),
            None => format!("[{}]", section.name),
        };
        let _ = write!(text, "\n## `{title}`\n\n{}\n\n", section.doc);
        text.push_str("| Key | Type | Default | Unit | Meaning |\n|---|---|---|---|---|\n");
        for key in section.keys {
            let (default, Key { kind, unit, doc, .. }) = (key.absent(), key);
            let _ = writeln!(text, "| `{}` | {kind} | {default} | {unit} | {doc} |", key.name());
        }
    }
    text
}
