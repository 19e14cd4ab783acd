//! What an operator meets when a configuration is right, and when it is not.

use std::time::Duration;

use super::*;

fn problems(text: &str) -> Vec<String> {
    match Config::parse(text, "t.toml") {
        Ok(_) => Vec::new(),
        Err(error) => error.to_string().lines().map(str::to_owned).collect(),
    }
}

#[test]
fn an_empty_file_is_the_default_and_the_default_is_valid() {
    let mut found = Vec::new();
    let config = check::checked(raw::Raw::default(), &mut found);
    assert_eq!(found, []);
    assert_eq!(Config::parse("", "t").unwrap(), config);
    assert_eq!(config.block.max_duration, Duration::from_secs(30 * 86_400));
    assert_eq!(config.interfaces.names, [InterfaceName::Auto]);
}

/// The printed default with an element of every array of tables.
fn whole_default() -> String {
    let element = |line: &str| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).map(str::to_owned);
    let text = reference::default_text();
    let whole: Vec<String> = text.lines().map(|line| element(line).unwrap_or_else(|| line.to_owned())).collect();
    whole.join("\n").replace("account = \"\"", "account = \"0123456789abcdef0123456789abcdef\"")
}

#[test]
fn the_printed_default_is_the_default() {
    let text = reference::default_text();
    assert_eq!(Config::parse(&text, "default").unwrap(), Config::default());
    // What is commented out is right as well.
    let config = Config::parse(&whole_default(), "default").unwrap();
    assert_eq!((config.feeds.len(), config.scrub.len()), (1, 1));
    assert_eq!((config.alerts.sinks.len(), config.alerts.maintenance.len()), (1, 1));
    assert!(text.lines().all(|line| line.len() <= 120), "{text}");
}

#[test]
fn every_key_is_in_the_reference_and_back() {
    let mut raw = reference::raw_paths();
    let mut documented: Vec<String> = reference::keys().map(|key| key.path.to_owned()).collect();
    raw.sort();
    documented.sort();
    assert_eq!(raw, documented);
    for section in reference::SECTIONS {
        assert!(section.keys.iter().all(|key| key.path.starts_with(&format!("{}.", section.name))));
        assert!(!section.doc.is_empty() && section.keys.iter().all(|key| !key.doc.is_empty() && !key.kind.is_empty()));
    }
    assert!(reference::keys().all(|key| key.default_value().is_some() || !key.sample.is_empty()));
}

/// What the reference says must be written is missed where it is not, and nothing else is.
#[test]
fn what_must_be_written_is_what_is_missed() {
    let whole = whole_default();
    let lines: Vec<&str> = whole.lines().collect();
    let mut section = "";
    for (at, line) in lines.iter().enumerate() {
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']);
        }
        let Some((name, _)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) else { continue };
        let Some(key) = reference::key(&format!("{section}.{name}")) else { panic!("{section}: {line}") };
        let without = [&lines[..at], &lines[at + 1..]].concat().join("\n");
        // Which provider needs an account is in its meaning: that of the example does.
        let missed = !problems(&without).is_empty() && key.path != "scrub[].account";
        assert_eq!(missed, key.default_value().is_none(), "without {}: {:?}", key.path, problems(&without));
    }
    let optional = [
        "[[alerts.sinks]]\nname = \"a\"\nkind = \"syslog\"\naddress = \"unix:///dev/log\"\n",
        "[[alerts.sinks]]\nname = \"a\"\nkind = \"alertmanager\"\nurl = \"http://127.0.0.1:9093\"\n",
        "[[alerts.sinks]]\nname = \"a\"\nkind = \"email\"\nserver = \"mx.example.net\"\nfrom = \"a@example.net\"\n\
         to = [\"b@example.net\"]\n",
        "[[scrub]]\nname = \"x\"\nprovider = \"hetzner-cloud\"\n",
    ];
    for text in optional {
        assert_eq!(problems(text), Vec::<String>::new(), "{text}");
    }
}

/// `FTAGENT_BLESS=1 cargo test -p ftagent config` writes the file.
#[test]
fn the_documentation_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/CONFIG.md");
    if std::env::var_os("FTAGENT_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, reference::markdown()).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(written, reference::markdown(), "run FTAGENT_BLESS=1 cargo test -p ftagent the_documentation");
}

/// One mistake per row: the text, and what the one line about it must contain.
const MISTAKES: &[(&str, &[&str])] = &[
    ("\n[metrics]\nlisen = \"127.0.0.1:1\"", &["t.toml:3:", "`metrics.lisen`", "did you mean `metrics.listen`?"]),
    ("[metric]\nenabled = true", &["t.toml:1:", "did you mean `metrics`?"]),
    ("reload_interval = \"2s\"", &["t.toml:1:", "did you mean `feed.reload_interval`?"]),
    ("zebra = 1", &["t.toml:1:", "`zebra`", "ftagent config default"]),
    ("[[feeds]]\nname = \"a\"\npaht = \"/x\"\npath = \"/x\"", &["t.toml:3:", "`feeds[0].paht`", "`feeds[].path`"]),
    ("[metrics]\nlisten = 9464", &["t.toml:2:", "`metrics.listen`", "integer", "127.0.0.1:9464"]),
    ("metrics = 3", &["t.toml:1:", "`metrics`", "a table", "[metrics]"]),
    ("[metrics]\n\nlisten = \"0.0.0.0:9464\"", &["t.toml:3:", "not a loopback", "127.0.0.1:9464"]),
    ("[metrics]\nlisten = \"here\"", &["t.toml:2:", "not an address and a port"]),
    ("[interfaces]\nmode = \"natve\"", &["t.toml:2:", "unknown variant `natve`", "native"]),
    ("[interfaces]\nnames = []", &["t.toml:2:", "is empty", "auto"]),
    ("[interfaces]\nnames = [\"eth0\", \"eth0\"]", &["t.toml:2:", "`interfaces.names[1]`", "twice"]),
    ("[interfaces]\nnames = [\"eth0/1\"]", &["`interfaces.names[0]`", "cannot be the name"]),
    ("[block]\ndefault_duration = \"ten\"", &["t.toml:2:", "not a duration", "10m"]),
    ("[block]\ndefault_duration = \"31d\"", &["t.toml:2:", "longer than `block.max_duration` (30d)"]),
    ("[block]\nmax_duration = \"0s\"", &["t.toml:2:", "out of range", "from 1s to"]),
    ("[feed]\nttl = \"10s\"\nreload_interval = \"1m\"", &["t.toml:2:", "not longer than"]),
    ("[[feeds]]\nname = \"a\"", &["t.toml:1:", "`feeds[0].path`", "is missing"]),
    ("[[feeds]]\nname = \"A b\"\npath = \"/x\"", &["t.toml:2:", "is not a name", "a-z"]),
    ("[[feeds]]\nname=\"a\"\npath=\"/x\"\n[[feeds]]\nname=\"a\"\npath=\"/y\"", &["t.toml:5:", "`feeds[1].name`"]),
    ("[paths]\nstate = \"var\"", &["t.toml:2:", "not an absolute path"]),
    ("[lists]\nblock = [\n  \"192.0.2.0/24\",\n  \"0.0.0.0/0\",\n]", &["t.toml:4:", "`lists.block[1]`", "at least /8"]),
    ("[lists]\nallow = [\"::/0\"]", &["t.toml:2:", "/16"]),
    ("[lists]\nblock = [\"192.0.2.7/24\"]", &["host bits", "192.0.2.0/24"]),
    ("[lists]\nblock = [\"192.0.2\"]", &["not an address or prefix"]),
    ("[lists]\nblock = [\"192.0.2.1\"]\nallow = [\"192.0.2.1/32\"]", &["t.toml:2:", "`lists.allow` too"]),
    ("[services]\nudp = [53, 65536]", &["t.toml:2:", "`services.udp[1]`", "65536 is not a port"]),
    ("[services]\nudp = [53, \"dns\"]", &["t.toml:2:", "`services.udp[1]`", "a list of ports"]),
    ("[sampling]\nrate_pps = -1", &["t.toml:2:", "out of range", "1 to 1000000"]),
    (
        "[remote]\nendpoint = \"https://s3.example.net/bucket\"\nbucket = \"abc\"\ncredentials = \"/c\"",
        &["t.toml:2:", "not an address of a store", "without bucket"],
    ),
    ("[remote]\nendpoint = \"https://s3.example.net\"\nbucket = \"abc\"", &["`remote.credentials`", "absolute path"]),
    ("[bgp]\ndaemon = \"quagga\"", &["t.toml:2:", "`bgp.daemon`", "\"exabgp\""]),
    ("[bgp]\ndaemon = \"gobgp\"\nown_prefixes = [\"192.0.2.0/24\"]", &["`bgp.asn`", "64500"]),
    ("[bgp]\ndaemon = \"gobgp\"\nasn = 1", &["`bgp.own_prefixes`", "is empty"]),
    (
        "[bgp]\ndaemon = \"gobgp\"\nasn = 1\nown_prefixes = [\"192.0.2.1/24\"]",
        &["t.toml:4:", "`bgp.own_prefixes[0]`", "host bits", "203.0.113.0/24"],
    ),
    (
        "[bgp]\ndaemon = \"gobgp\"\nasn = 1\nown_prefixes = [\"192.0.2.0/24\"]\ncommunities = []",
        &["t.toml:5:", "`bgp.communities`", "65535:666"],
    ),
    (
        "[bgp]\ndaemon = \"exabgp\"\nexabgp_pipes = \"run\"\nasn = 1\nown_prefixes = [\"192.0.2.0/24\"]",
        &["t.toml:3:", "`bgp.exabgp_pipes`", "absolute path"],
    ),
    (
        "[bgp]\ndaemon = \"gobgp\"\nasn = 1\nown_prefixes = [\"192.0.2.0/24\"]\nnext_hop4 = \"100::1\"",
        &["t.toml:5:", "`bgp.next_hop4`", "192.0.2.1"],
    ),
    ("[learning]\ntrust_after = \"0s\"", &["t.toml:2:", "out of range", "from 1s to"]),
    ("[capture]\nmemory = \"64\"", &["t.toml:2:", "not a size", "64 MiB"]),
    ("[capture]\nincident_bytes = \"64 kB\"", &["t.toml:2:", "out of range", "from 1 MiB to 1 TiB"]),
    ("[capture]\nkeep_bytes = \"99999999 TiB\"", &["t.toml:2:", "`capture.keep_bytes`"]),
    ("[capture]\njournal_bytes = \"64 kB\"", &["t.toml:2:", "out of range", "from 1 MiB to 4 GiB"]),
    ("[capture]\npre_roll = \"2m\"", &["t.toml:2:", "out of range"]),
    (
        "[[scrub]]\nprovider = \"ovh\"\ncredentials = \"/c\"\nprefixes = [\"203.0.113.0/28\"]",
        &["`scrub[0].name`", "is missing"],
    ),
    (
        "[[scrub]]\nname = \"rtbh\"\nprovider = \"ovh\"\ncredentials = \"/c\"\nprefixes = [\"203.0.113.0/28\"]",
        &["t.toml:2:", "another kind"],
    ),
    ("[[scrub]]\nname = \"x\"\nprovider = \"akamai\"", &["t.toml:3:", "\"akamai\" is not known", "\"hetzner-robot\""]),
    (
        "[[scrub]]\nname = \"x\"\nprovider = \"ovh\"\ncredentials = \"s3cr3t\"\nprefixes = [\"203.0.113.0/28\"]",
        &["t.toml:4:", "credential:NAME"],
    ),
    (
        "[[scrub]]\nname = \"x\"\nprovider = \"cloudflare\"\ncredentials = \"/c\"\nprefixes = [\"203.0.113.0/24\"]",
        &["`scrub[0].account`", "32 hexadecimal digits"],
    ),
    (
        "[[scrub]]\nname = \"x\"\nprovider = \"hetzner-robot\"\naccount = \"web1\"\ncredentials = \"/c\"\nprefixes = [\"203.0.113.0/24\"]",
        &["t.toml:4:", "number of a server"],
    ),
    (
        "[[scrub]]\nname = \"x\"\nprovider = \"ovh\"\naccount = \"1\"\ncredentials = \"/c\"\nprefixes = [\"203.0.113.0/28\"]",
        &["t.toml:4:", "leave it out"],
    ),
    ("[[scrub]]\nname = \"x\"\nprovider = \"ovh\"\ncredentials = \"/c\"", &["`scrub[0].prefixes`", "is missing"]),
    (
        "[[scrub]]\nname = \"x\"\nprovider = \"ovh\"\ncredentials = \"/c\"\nprefixes = [\"203.0.113.1/28\"]",
        &["t.toml:5:", "`scrub[0].prefixes[0]`", "host bits"],
    ),
    (
        "[[scrub]]\nname = \"x\"\nprovider = \"ovh\"\ncredentials = \"/c\"\nprefixes = [\"203.0.113.0/28\"]\nendpoint = \"http://ovh.example\"",
        &["t.toml:6:", "has no TLS"],
    ),
    (
        "[[scrub]]\nname = \"x\"\nprovider = \"ovh\"\ncredentials = \"/c\"\nprefixes = [\"203.0.113.0/28\"]\nendpoint = \"https://u:p@h\"",
        &["t.toml:6:", "without credentials"],
    ),
    (
        "[[scrub]]\nname = \"x\"\nprovider = \"webhook\"\ncredentials = \"/c\"\nprefixes = [\"203.0.113.0/28\"]",
        &["`scrub[0].endpoint`", "is missing"],
    ),
    (
        "[[scrub]]\nname = \"x\"\nprovider = \"ovh\"\ncredentials = \"/c\"\nprefixes = [\"203.0.113.0/28\"]\ntakes = [\"black-hole\"]",
        &["t.toml:6:", "`scrub[0].takes[0]`", "it takes \"divert\", \"filter\""],
    ),
    (
        "[[scrub]]\nname = \"x\"\nprovider = \"hetzner-cloud\"\ntakes = [\"filter\"]",
        &["t.toml:4:", "docs/planes/hetzner.md"],
    ),
    (
        "[[scrub]]\nname = \"x\"\nprovider = \"ovh\"\ncredentials = \"/c\"\nprefixes = [\"203.0.113.0/28\"]\nmin_hold = \"soon\"",
        &["t.toml:6:", "not a duration"],
    ),
    ("[[alerts.sinks]]\nname = \"a\"\nkind = \"slak\"", &["t.toml:3:", "`alerts.sinks[0].kind`", "\"slack\"?"]),
    ("[[alerts.sinks]]\nname = \"a\"\nkind = \"slack\"", &["t.toml:1:", "`alerts.sinks[0].secret`", "address"]),
    (
        "[[alerts.sinks]]\nname = \"a\"\nkind = \"slack\"\nsecret = \"https://hooks.slack.com/x\"",
        &["t.toml:4:", "neither an absolute path"],
    ),
    (
        "[[alerts.sinks]]\nname = \"a\"\nkind = \"slack\"\nsecret = \"/s\"\ntitle = \"{sevrity}\"",
        &["t.toml:5:", "`alerts.sinks[0].title`", "{sevrity}", "did you mean {severity}?"],
    ),
    (
        "[[alerts.sinks]]\nname = \"a\"\nkind = \"slack\"\nsecret = \"/s\"\nchat = \"1\"",
        &["t.toml:5:", "`alerts.sinks[0].chat`", "no meaning"],
    ),
    (
        "[[alerts.sinks]]\nname = \"a\"\nkind = \"slack\"\nsecret = \"/s\"\nvectors = [\"syn_flod\"]",
        &["t.toml:5:", "`alerts.sinks[0].vectors[0]`", "\"syn_flood\"?"],
    ),
    (
        "[[alerts.sinks]]\nname = \"a\"\nkind = \"email\"\nserver = \"mx.example.net\"\ntls = \"none\"\n\
         from = \"a@example.net\"\nto = [\"b@example.net\"]",
        &["t.toml:5:", "`alerts.sinks[0].tls`", "loopback"],
    ),
    ("[[alerts.sinks]]\nname = \"a\"\nkind = \"syslog\"\naddress = \"log:514\"", &["t.toml:4:", "udp://"]),
    (
        "[[alerts.sinks]]\nname = \"a\"\nkind = \"syslog\"\naddress = \"unix:///dev/log\"\nformt = \"cef\"",
        &["t.toml:5:", "`alerts.sinks[0].formt`", "`alerts.sinks[].format`"],
    ),
    ("[alerts]\nretry_first = \"0s\"", &["t.toml:2:", "out of range"]),
    ("[[alerts.maintenance]]\nfrom = \"22:00\"\nto = \"late\"", &["t.toml:2:", "`alerts.maintenance[0].from`"]),
    ("[log\nlevel = 1", &["t.toml:1:"]),
    ("[log]\nlevel = \"info\"\nlevel = \"warn\"", &["t.toml:3:", "duplicate"]),
];

#[test]
fn every_mistake_names_place_and_remedy() {
    for (text, expected) in MISTAKES {
        let lines = problems(text);
        assert_eq!(lines.len(), 1, "{text}\n{lines:#?}");
        for part in *expected {
            assert!(lines[0].contains(part), "{text}\nlacks {part:?}: {}", lines[0]);
        }
    }
}

#[test]
fn a_journal_of_no_bytes_is_none_and_the_longest_is_what_is_read() {
    for (text, bytes) in [("0 B", 0), ("1 MiB", 1 << 20), ("4 GiB", MOST_JOURNAL_BYTES)] {
        let config = Config::parse(&format!("[capture]\njournal_bytes = \"{text}\""), "t.toml").unwrap();
        assert_eq!(config.capture.journal_bytes, bytes, "{text}");
    }
}

#[test]
fn all_problems_are_told_at_once_in_the_order_of_the_file() {
    let text =
        "color = 1\n[metrics]\nenabled = \"yes\"\nlisten = \"::\"\n[block]\nmax_duration = 7\n[log]\nlevel = \"loud\"";
    let lines = problems(text);
    let numbers: Vec<&str> = lines.iter().filter_map(|line| line.split(':').nth(1)).collect();
    assert_eq!(numbers, ["1", "3", "4", "6", "8"], "{lines:#?}");
}

#[test]
fn a_table_of_a_scenario_is_read_without_lines() {
    let table: toml::Table = "[mitigation]\nmode = \"enforce\"".parse().unwrap();
    assert_eq!(Config::from_table(table).unwrap().mitigation.mode, MitigationMode::Enforce);
    let table: toml::Table = "[mitigation]\nmod = \"enforce\"".parse().unwrap();
    let error = Config::from_table(table).unwrap_err().to_string();
    assert!(error.starts_with("[config]: `mitigation.mod`"), "{error}");
}

#[test]
fn a_missing_file_is_an_error_only_where_it_was_named() {
    let error = Config::load(Some(Path::new("/nonexistent/ftagent.toml"))).unwrap_err().to_string();
    assert!(error.contains("/nonexistent/ftagent.toml") && error.contains("ftagent config default"), "{error}");
}

#[test]
fn the_socket_is_found_in_a_file_that_is_otherwise_broken() {
    let paths = "[paths]\nsocket = \"/tmp/s\"\n";
    for rest in ["", "[lists]\nblok = 7\n", "[lists]\nblock = [\"x\"]\n", "[lists\n", "[lists]\nblock = [\"\n"] {
        assert_eq!(read::socket(&format!("{paths}{rest}")).as_deref(), Some("/tmp/s"), "{rest}");
    }
    for text in ["", "[paths]\n", "[paths]\nsocket = 7\n", "paths = 7\n"] {
        assert_eq!(read::socket(text), None, "{text}");
    }
}
