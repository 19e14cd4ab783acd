//! By what words a dimension of a match is known in the text of a platform.

use crate::rule::Family;

/// What a dimension is called in texts of a platform for a family: one of these words is there.
pub fn traces(name: &str, dimension: &str, family: Family) -> &'static [&'static str] {
    let six = family == Family::Ip6;
    match (name, dimension) {
        ("nftables", _) => nftables_traces(dimension, six),
        ("iptables" | "ip6tables", _) => iptables_traces(dimension, six),
        ("bird", "src") => &["src"],
        ("iosxr", "src") => &["match source-address"],
        (_, "src") => &["source"],
        ("bird", "dst") => &["dst"],
        ("iosxr", "dst") => &["match destination-address"],
        (_, "dst") => &["destination"],
        ("bird", "proto") if six => &["next header"],
        ("bird", "proto") => &["proto"],
        ("exabgp", "proto") if six => &["next-header"],
        (_, "proto") => &["protocol"],
        ("iosxr", "port") => &["source-port"],
        (_, "port") => &["port"],
        ("bird", "sport") => &["sport"],
        (_, "sport") => &["source-port"],
        ("bird", "dport") => &["dport"],
        (_, "dport") => &["destination-port"],
        ("bird", "icmp-type") => &["icmp type"],
        ("junos", "icmp-type") if six => &["icmp6-type"],
        (_, "icmp-type") => &["icmp-type"],
        ("bird", "icmp-code") => &["icmp code"],
        ("junos", "icmp-code") if six => &["icmp6-code"],
        (_, "icmp-code") => &["icmp-code"],
        ("bird", "flags") => &["tcp flags"],
        ("iosxr", "flags") => &["tcp-flag"],
        (_, "flags") => &["tcp-flags"],
        ("bird", "len") => &["length"],
        ("iosxr", "len") => &["packet length"],
        (_, "len") => &["packet-length"],
        ("exabgp", "dscp") if six => &["traffic-class"],
        (_, "dscp") => &["dscp"],
        ("iosxr", "frag") => &["fragment-type"],
        (_, "frag") => &["fragment"],
        // No route has a TTL or a payload.
        _ => &[],
    }
}

fn nftables_traces(dimension: &str, six: bool) -> &'static [&'static str] {
    match (dimension, six) {
        ("src", false) => &["ip saddr"],
        ("src", true) => &["ip6 saddr"],
        ("dst", false) => &["ip daddr"],
        ("dst", true) => &["ip6 daddr"],
        ("proto", _) => &["meta l4proto"],
        ("port", _) => &["th sport", "th dport"],
        ("sport", _) => &["th sport"],
        ("dport", _) => &["th dport"],
        ("icmp-type", false) => &["icmp type"],
        ("icmp-type", true) => &["icmpv6 type"],
        ("icmp-code", false) => &["icmp code"],
        ("icmp-code", true) => &["icmpv6 code"],
        ("flags", _) => &["tcp flags"],
        ("len", false) => &["ip length"],
        ("len", true) => &["ip6 length"],
        ("dscp", false) => &["ip dscp"],
        ("dscp", true) => &["ip6 dscp"],
        ("ttl", false) => &["ip ttl"],
        ("ttl", true) => &["ip6 hoplimit"],
        // Beside what looks behind the header, which asks for `ip frag-off & 0x1fff == 0`.
        ("frag", false) => &["0x4000 != 0", "0x1fff != 0", "0x3fff"],
        ("frag", true) => &["frag frag-off != 0", "frag more-fragments", "exthdr frag missing"],
        ("payload", _) => &["@ih", "@th"],
        _ => &[],
    }
}

fn iptables_traces(dimension: &str, six: bool) -> &'static [&'static str] {
    match (dimension, six) {
        ("src", _) => &["-s"],
        ("dst", _) => &["-d"],
        ("proto", _) => &["-p", "6&0xFF"],
        ("port", _) => &["--ports"],
        ("sport", _) => &["--sports"],
        ("dport", _) => &["--dports"],
        ("icmp-type", false) => &["@0>>24"],
        ("icmp-code", false) => &["@0>>16"],
        ("icmp-type" | "icmp-code", true) => &["--icmpv6-type"],
        ("flags", _) => &["--tcp-flags", "--ecn-tcp-ece", "--ecn-tcp-cwr"],
        ("len", _) => &["-m length --length"],
        ("dscp", false) => &["0>>18"],
        ("dscp", true) => &["0>>22&0x3F"],
        ("ttl", false) => &["8>>24"],
        ("ttl", true) => &["4&0xFF"],
        ("frag", false) => &["4&0x4000", "4&0x1FFF", "4&0x3FFF"],
        ("frag", true) => &["-m frag", "--header frag"],
        ("payload", _) => &["-m u32"],
        _ => &[],
    }
}

/// Returns whether a text has these words as they are, and not only as part of longer ones.
pub fn has_words(text: &str, words: &str) -> bool {
    let part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    // Where a trace ends in a sign, anything may follow it.
    let inside = |next: Option<char>, end: Option<char>| next.is_some_and(part) && end.is_some_and(part);
    text.match_indices(words).any(|(at, _)| {
        let (before, behind) = (text.get(..at).unwrap_or_default(), text.get(at + words.len()..).unwrap_or_default());
        !inside(before.chars().next_back(), words.chars().next())
            && !inside(behind.chars().next(), words.chars().next_back())
    })
}
