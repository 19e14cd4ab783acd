//! Reads a block-list file as a stream of lines: one address or prefix each, comments after `#`
//! or `;`, as Spamhaus DROP and most published lists have it.

use std::io::{self, BufRead};

use ftagent_common::lists::{Key4, Key6};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    bpf::lists::{key4, key6, net4, net6},
    sense::host::Guard,
};

/// Problems that are kept in full; the rest is counted.
pub const KEPT_PROBLEMS: usize = 20;
/// Entries of one feed at most: 4 Mi, which take some 400 MiB of kernel memory.
pub const MAX_ENTRIES: usize = 4 << 20;
/// Longer lines are no block list.
const MAX_LINE: usize = 4096;
/// How much of a broken line is shown.
const SHOWN: usize = 80;

/// A line that gave no entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineProblem {
    /// The line, from 1.
    pub line: u64,
    /// What it says, shortened.
    pub text: String,
    /// Why it gave no entry.
    pub reason: String,
}

/// How reading went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Lines that are no address or prefix.
    pub broken: u64,
    /// Lines that the guard refused: own addresses, prefixes that are too short, …
    pub refused: u64,
    /// Prefixes whose host bits were set, and cleared.
    pub host_bits_cleared: u64,
    /// The first of the lines that gave no entry.
    pub problems: Vec<LineProblem>,
}

impl Report {
    /// Returns which lines gave no entry, in words; `None` where all did.
    pub fn note(&self) -> Option<String> {
        let left_out = self.broken + self.refused;
        let first = self.problems.first()?;
        Some(format!("{left_out} lines left out, the first is line {}: `{}` {}", first.line, first.text, first.reason))
    }
}

/// The prefixes of a feed, sorted, without doubles.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entries {
    /// IPv4.
    pub v4: Vec<Key4>,
    /// IPv6.
    pub v6: Vec<Key6>,
}

impl Entries {
    /// Returns the number of prefixes.
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Returns whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the prefixes, IPv4 first.
    pub fn nets(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.v4.iter().map(|&key| net4(key)).chain(self.v6.iter().map(|&key| net6(key)))
    }

    /// Returns how many prefixes are new against `old`, and how many of `old` are gone.
    pub fn changes_since(&self, old: &Self) -> (usize, usize) {
        let (added4, removed4) = differences(&old.v4, &self.v4);
        let (added6, removed6) = differences(&old.v6, &self.v6);
        (added4 + added6, removed4 + removed6)
    }

    fn push(&mut self, net: IpNet) {
        match net {
            IpNet::V4(net) => self.v4.push(key4(net)),
            IpNet::V6(net) => self.v6.push(key6(net)),
        }
    }

    fn tidy(&mut self) {
        self.v4.sort_unstable();
        self.v4.dedup();
        self.v6.sort_unstable();
        self.v6.dedup();
    }
}

/// Walks two sorted lists and returns what is only in the new one, and only in the old one.
fn differences<K: Ord>(old: &[K], new: &[K]) -> (usize, usize) {
    let (mut i, mut j, mut same) = (0, 0, 0);
    while let (Some(a), Some(b)) = (old.get(i), new.get(j)) {
        let order = a.cmp(b);
        i += usize::from(order.is_le());
        j += usize::from(order.is_ge());
        same += usize::from(order.is_eq());
    }
    (new.len() - same, old.len() - same)
}

/// What a line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// Nothing, or a comment.
    Blank,
    /// A prefix, its host bits cleared.
    Net {
        /// The prefix.
        net: IpNet,
        /// Whether host bits were set.
        host_bits: bool,
    },
    /// Something else, with the reason.
    Broken(&'static str),
}

/// Reads a line, with or without its end.
pub fn line(bytes: &[u8]) -> Line {
    let end = bytes.iter().position(|&byte| byte == b'#' || byte == b';').unwrap_or(bytes.len());
    let bytes = bytes[..end].trim_ascii();
    if bytes.is_empty() {
        return Line::Blank;
    }
    let Ok(text) = str::from_utf8(bytes) else { return Line::Broken("is not text") };
    let net = if bytes.contains(&b'/') {
        text.parse::<IpNet>().ok()
    } else {
        text.parse::<std::net::IpAddr>().ok().map(IpNet::from)
    };
    match net {
        Some(net) => Line::Net { net: net.trunc(), host_bits: net != net.trunc() },
        None if text.contains([' ', '\t', ',']) => {
            Line::Broken("has more than an address or prefix; put the rest behind a #")
        }
        None => Line::Broken("is not an address or prefix"),
    }
}

/// Reads a whole list. Lines that `guard` refuses or that are broken are reported; the rest
/// loads.
///
/// # Errors
/// What reading says.
pub fn read(mut input: impl BufRead, guard: Option<&Guard>) -> io::Result<(Entries, Report)> {
    let (mut entries, mut report) = (Entries::default(), Report::default());
    let (mut buffer, mut number) = (Vec::with_capacity(256), 0);
    while let Some(whole) = next_line(&mut input, &mut buffer)? {
        number += 1;
        let bytes = if number == 1 { buffer.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&buffer) } else { &buffer };
        let parsed = if whole { line(bytes) } else { Line::Broken("is longer than 4096 bytes") };
        let (count, reason) = match parsed {
            Line::Blank => continue,
            Line::Broken(reason) => (&mut report.broken, reason.to_owned()),
            Line::Net { net, host_bits } => match guard.map_or(Ok(()), |guard| guard.check_feed(net)) {
                Ok(()) if entries.len() < MAX_ENTRIES => {
                    report.host_bits_cleared += u64::from(host_bits);
                    entries.push(net);
                    continue;
                }
                Ok(()) => (&mut report.refused, format!("is past the {MAX_ENTRIES} entries that a feed may have")),
                Err(refusal) => (&mut report.refused, refusal.reason()),
            },
        };
        *count += 1;
        if report.problems.len() < KEPT_PROBLEMS {
            let text = String::from_utf8_lossy(bytes.get(..SHOWN).unwrap_or(bytes)).trim().to_owned();
            report.problems.push(LineProblem { line: number, text, reason });
        }
    }
    entries.tidy();
    Ok((entries, report))
}

/// Reads the next line into the buffer; `None` at the end, `false` where the line is so long
/// that only its start is there.
fn next_line(input: &mut impl BufRead, buffer: &mut Vec<u8>) -> io::Result<Option<bool>> {
    buffer.clear();
    let (mut any, mut whole) = (false, true);
    loop {
        let chunk = input.fill_buf()?;
        if chunk.is_empty() {
            return Ok(any.then_some(whole));
        }
        any = true;
        let end = chunk.iter().position(|&byte| byte == b'\n');
        let part = &chunk[..end.unwrap_or(chunk.len())];
        whole &= buffer.len() + part.len() <= MAX_LINE;
        if whole || buffer.is_empty() {
            buffer.extend_from_slice(&part[..part.len().min(MAX_LINE)]);
        }
        let used = end.map_or(chunk.len(), |end| end + 1);
        input.consume(used);
        if end.is_some() {
            return Ok(Some(whole));
        }
    }
}
