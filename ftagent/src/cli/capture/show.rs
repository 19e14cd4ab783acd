//! What is in one capture: tables of classes and verdicts, what is most frequent, and what is lost.

use std::{collections::BTreeMap, io, process::ExitCode};

use anyhow::{Context as _, Result};
use serde_json::json;

use super::super::{
    Cli,
    text::{count, harmless, percent, size, span, table, utc},
};
use crate::{
    decide::Packet,
    record::recorder::{
        frames::survey,
        meta::{CAPTURE, Meta},
        pcapng,
        store::Opened,
    },
};

/// Rows of a table of what is most frequent.
const TOP: usize = 5;
/// Different things of one kind that are counted at most.
const COUNTED: usize = 100_000;

/// Packets by what they have in common, each with those that it stood for.
type Tally = BTreeMap<String, f64>;

/// What is most frequent in the file.
#[derive(Default)]
struct Top {
    sources: Tally,
    services: Tally,
    total: f64,
}

/// Shows it.
///
/// # Errors
/// Where its description or the packets cannot be read.
pub fn run(cli: &Cli, opened: &Opened) -> Result<ExitCode> {
    let meta = opened.meta().with_context(|| format!("reading the description of capture {}", opened.id))?;
    let top = read(opened).with_context(|| format!("reading the packets of capture {}", opened.id))?;
    if cli.json {
        let named =
            |tally: &Tally| first(tally).into_iter().map(|(name, weight)| json!([name, weight])).collect::<Vec<_>>();
        let top = json!({ "sources": named(&top.sources), "services": named(&top.services) });
        println!("{}", json!({ "meta": meta, "top": top }));
    } else {
        print!("{}", harmless(&render(&meta, &top)));
    }
    Ok(ExitCode::SUCCESS)
}

fn read(opened: &Opened) -> io::Result<Top> {
    let mut top = Top::default();
    let file = match opened.file(CAPTURE) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(top),
        file => file?,
    };
    survey(io::BufReader::new(file), |bytes| {
        for block in pcapng::blocks(bytes) {
            if let Some((frame, wire, options)) = block.packet() {
                let comment = options.into_iter().find(|(code, _)| *code == 1).map(|(_, text)| text);
                top.add(&Packet::decode(0, frame, wire as usize, None, false), stride(comment.unwrap_or_default()));
            }
        }
    })?;
    Ok(top)
}

/// Returns what a packet stood for, as its comment says.
fn stride(comment: &[u8]) -> f64 {
    let text = std::str::from_utf8(comment).unwrap_or_default();
    let word = text.split(' ').find_map(|word| word.strip_prefix("stride="));
    word.and_then(|number| number.parse::<u32>().ok()).map_or(1.0, f64::from)
}

impl Top {
    fn add(&mut self, packet: &Packet, weight: f64) {
        self.total += weight;
        let Some((src, dst)) = packet.ends else { return };
        let service = match packet.proto {
            6 => format!("{dst} tcp {}", packet.dport),
            17 if packet.sport < 1024 && packet.dport >= 1024 => format!("{dst} from udp {}", packet.sport),
            17 => format!("{dst} udp {}", packet.dport),
            proto => format!("{dst} proto {proto}"),
        };
        for (tally, name) in [(&mut self.sources, src.to_string()), (&mut self.services, service)] {
            if tally.len() < COUNTED || tally.contains_key(&name) {
                *tally.entry(name).or_default() += weight;
            }
        }
    }
}

fn first(tally: &Tally) -> Vec<(&str, f64)> {
    let mut all: Vec<(&str, f64)> = tally.iter().map(|(name, weight)| (name.as_str(), *weight)).collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1));
    all.truncate(TOP);
    all
}

fn render(meta: &Meta, top: &Top) -> String {
    let what = match (&meta.vector, &meta.matches) {
        (Some(vector), _) => vector.clone(),
        (None, Some(matches)) => format!("`{matches}`, asked for by {}", meta.by.as_deref().unwrap_or("?")),
        (None, None) => "unknown".to_owned(),
    };
    let mut text = format!("capture {}: {what}, {}\n", meta.id, meta.status.as_str());
    text.push_str(&format!("  begun {}", utc(meta.begun_ms)));
    if let (Some(from), Some(to)) = (meta.first_ns, meta.last_ns) {
        let [from, to] = [from, to].map(|ns| i64::try_from(ns / 1_000_000).unwrap_or(i64::MAX));
        text.push_str(&format!("; packets of {} from {} on", span(to.saturating_sub(from)), utc(from)));
    }
    text.push_str(&format!("\n  of a packet is kept: {}", meta.payload.as_str()));
    if meta.cut > 0 {
        text.push_str(&format!("; of {} only headers, for want of room", count(meta.cut)));
    }
    if meta.held {
        text.push_str("\n  on legal hold: it is not removed");
    }
    text.push('\n');
    meta.notes.iter().for_each(|note| text.push_str(&format!("  note: {note}\n")));
    text.push_str(&classes(meta));
    for (title, counts) in [("verdict", &meta.verdicts), ("reason of drop", &meta.reasons)] {
        if !counts.is_empty() {
            let rows: Vec<Vec<String>> = counts.iter().map(|(name, n)| vec![name.clone(), count(*n)]).collect();
            text.push_str(&table(&[title, "written"], &rows));
        }
    }
    for (title, tally) in [("most frequent sources", &top.sources), ("most frequent destinations", &top.services)] {
        if !tally.is_empty() {
            let share = |weight: f64| percent(weight / top.total.max(1.0));
            let rows: Vec<Vec<String>> =
                first(tally).into_iter().map(|(name, weight)| vec![name.to_owned(), share(weight)]).collect();
            text.push_str(&table(&[title, "of packets"], &rows));
        }
    }
    text.push_str(&loss(meta));
    for file in &meta.files {
        text.push_str(&format!("  {}  {}  sha256 {}\n", file.name, size(file.bytes), file.sha256));
    }
    text
}

fn classes(meta: &Meta) -> String {
    let mut rows: Vec<_> = meta.classes.iter().collect();
    rows.sort_by_key(|(_, counts)| std::cmp::Reverse(counts.seen));
    let row = |(name, counts): (&String, &crate::record::recorder::meta::ClassCounts)| {
        let numbers = [counts.seen, counts.dropped, counts.sampled, counts.written, counts.left_out];
        std::iter::once(name.clone()).chain(numbers.map(count)).collect()
    };
    let rows: Vec<Vec<String>> = rows.into_iter().map(row).collect();
    table(&["class", "seen", "dropped", "sampled", "written", "left out"], &rows)
}

fn loss(meta: &Meta) -> String {
    let lost = &meta.lost;
    let all = [
        (lost.not_sampled, "not sampled"),
        (lost.kernel, "the kernel had no room for the sample"),
        (lost.tape, "the recorder was too slow"),
        (lost.quota, "left out for want of room in the file"),
        (lost.disk, "not taken by the disk"),
        (lost.unmatched, "sampled and not matched"),
    ];
    let parts: Vec<String> =
        all.iter().filter(|(number, _)| *number > 0).map(|(number, why)| format!("{} {why}", count(*number))).collect();
    let why = if parts.is_empty() { String::new() } else { format!(": {}", parts.join(", ")) };
    format!(
        "  {} packets came in, {} are in the file, {} are not{why}\n",
        count(meta.seen),
        count(meta.written),
        count(meta.lost_total())
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::recorder::meta::{ClassCounts, FileFacts, Lost};

    #[test]
    fn a_capture_is_shown_with_what_is_not_in_it() {
        let meta = Meta {
            id: "20260801T120000Z-1".to_owned(),
            vector: Some("ntp_amplification".to_owned()),
            begun_ms: 1_785_585_600_000,
            first_ns: Some(1_785_585_590_000_000_000),
            last_ns: Some(1_785_585_602_000_000_000),
            seen: 1000,
            written: 100,
            cut: 3,
            held: true,
            lost: Lost { not_sampled: 890, quota: 10, ..Lost::default() },
            classes: [
                (
                    "udp_src_ntp".to_owned(),
                    ClassCounts { seen: 990, dropped: 980, sampled: 105, written: 95, left_out: 10 },
                ),
                ("arp".to_owned(), ClassCounts { seen: 10, written: 5, sampled: 5, ..ClassCounts::default() }),
            ]
            .into(),
            verdicts: [("dropped".to_owned(), 90), ("passed".to_owned(), 10)].into(),
            reasons: [("rule".to_owned(), 90)].into(),
            files: vec![FileFacts { name: CAPTURE.to_owned(), bytes: 5000, sha256: "ab".to_owned() }],
            notes: vec!["look\x1b[2J".to_owned()],
            ..Meta::default()
        };
        let mut top = Top::default();
        let frame = crate::record::recorder::tests::udp([192, 0, 2, 1].into(), (123, 5000), &[]);
        top.add(&Packet::decode(0, &frame, 60, None, false), stride(b"verdict=dropped stride=64 socket=none"));
        let text = harmless(&render(&meta, &top));
        for part in [
            "capture 20260801T120000Z-1: ntp_amplification, open\n",
            "packets of 12 s from 2026-08-01 11:59:50 UTC on",
            "of 3 only headers, for want of room",
            "on legal hold",
            "note: look.[2J",
            "  udp_src_ntp   990      980      105       95        10\n",
            "  192.0.2.1                   100 %\n",
            "  198.51.100.10 from udp 123       100 %\n",
            "1 000 packets came in, 100 are in the file, 900 are not: 890 not sampled, 10 left out for want",
            "capture.pcapng.zst  5.00 kB  sha256 ab\n",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert_eq!((top.total, stride(b"nothing")), (64.0, 1.0));
    }
}
