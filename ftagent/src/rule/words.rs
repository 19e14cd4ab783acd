//! The words of the text form, and what is said of a word that is none of them.

use std::net::IpAddr;

use ipnet::IpNet;
use thiserror::Error;

use super::Fragment;

/// Why a text is no match, no action or no rule.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{at}` {what}")]
pub struct ParseRuleError {
    /// The word that is wrong.
    pub at: String,
    /// What is wrong, and what to write instead.
    pub what: String,
}

pub(super) fn wrong(at: &str, what: impl Into<String>) -> ParseRuleError {
    ParseRuleError { at: at.to_owned(), what: what.into() }
}

/// Protocols by name (IANA protocol numbers).
pub(super) const PROTOCOLS: [(&str, u8); 12] = [
    ("icmp", 1),
    ("igmp", 2),
    ("ipip", 4),
    ("tcp", 6),
    ("udp", 17),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("icmp6", 58),
    ("ospf", 89),
    ("vrrp", 112),
    ("sctp", 132),
];

/// TCP flags by name.
pub(super) const FLAGS: [(&str, u8); 8] =
    [("fin", 1), ("syn", 2), ("rst", 4), ("psh", 8), ("ack", 16), ("urg", 32), ("ece", 64), ("cwr", 128)];

/// Kinds of fragments by name.
pub(super) const FRAGMENTS: [(&str, Fragment); 5] = [
    ("dont", Fragment::Dont),
    ("is", Fragment::Is),
    ("first", Fragment::First),
    ("last", Fragment::Last),
    ("not", Fragment::Not),
];

/// The words that begin a dimension.
pub(super) const WORDS: [&str; 16] = [
    "ip4",
    "ip6",
    "src",
    "dst",
    "proto",
    "port",
    "sport",
    "dport",
    "icmp-type",
    "icmp-code",
    "flags",
    "len",
    "dscp",
    "frag",
    "ttl",
    "payload",
];

/// What other tools call the same.
const ALIASES: [(&str, &str); 25] = [
    ("source", "src"),
    ("saddr", "src"),
    ("from", "src"),
    ("destination", "dst"),
    ("dest", "dst"),
    ("daddr", "dst"),
    ("to", "dst"),
    ("protocol", "proto"),
    ("source-port", "sport"),
    ("src-port", "sport"),
    ("destination-port", "dport"),
    ("dst-port", "dport"),
    ("ports", "port"),
    ("ipv4", "ip4"),
    ("ip", "ip4"),
    ("ipv6", "ip6"),
    ("icmpv6", "icmp6"),
    ("ipv6-icmp", "icmp6"),
    ("tcp-flags", "flags"),
    ("length", "len"),
    ("packet-length", "len"),
    ("tos", "dscp"),
    ("fragment", "frag"),
    ("hoplimit", "ttl"),
    ("data", "payload"),
];

/// How alike two words must be for one to be taken for a slip of the other, 0 to 1.
const ALIKE: f64 = 0.55;

/// Returns the known word that is most like another, if any is.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let alike = |known: &'a str| (strsim::normalized_damerau_levenshtein(word, known), known);
    let best = known.into_iter().map(alike).max_by(|a, b| a.0.total_cmp(&b.0))?;
    Some(best.1).filter(|_| best.0 >= ALIKE)
}

/// Says what a word that begins no dimension should have been.
pub(super) fn unknown(word: &str) -> ParseRuleError {
    if word.parse::<IpNet>().is_ok() || word.parse::<IpAddr>().is_ok() {
        return wrong(word, format!("stands behind no dimension: write `src {word}` or `dst {word}`"));
    }
    if word.starts_with(|first: char| first.is_ascii_digit() || ",-/:".contains(first)) {
        return wrong(
            word,
            "stands behind no dimension: lists and ranges have no spaces in them, as in `dport 53,80-90`",
        );
    }
    if FLAGS.iter().any(|(name, _)| word.split(['/', '+', ',']).any(|part| part == *name)) {
        return wrong(word, format!("is a TCP flag: write `flags {word}`"));
    }
    if let Some((_, ours)) = ALIASES.iter().find(|(theirs, _)| *theirs == word) {
        return wrong(word, format!("is written `{ours}` here"));
    }
    let known = WORDS.into_iter().chain(PROTOCOLS.iter().map(|(name, _)| *name));
    match nearest(word, known) {
        Some(nearest) => wrong(word, format!("is no dimension: did you mean `{nearest}`?")),
        None => wrong(word, format!("is no dimension; they are {}, and protocols by name", WORDS.join(", "))),
    }
}

/// Says what a name that is not in a list should have been.
pub(super) fn unknown_name<'a>(word: &str, kind: &str, known: impl Iterator<Item = &'a str>) -> ParseRuleError {
    let known: Vec<&str> = known.collect();
    match nearest(word, known.iter().copied()) {
        Some(nearest) => wrong(word, format!("is no {kind}: did you mean `{nearest}`?")),
        None => wrong(word, format!("is no {kind}: write {}", known.join(", "))),
    }
}
