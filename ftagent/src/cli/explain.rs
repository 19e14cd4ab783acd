//! `ftagent explain`: what would happen to a packet, and why.

use std::{collections::BTreeMap, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use super::{
    Cli,
    client::ask,
    text::{aligned, count, duration, harmless, percent},
};
use crate::{
    replay::capture::for_each_packet,
    rule::Origin,
    serve::protocol::{Explain, Explained, Explanation, Frame, ListHit, Request, RuleVerdict, Verdict},
};

/// Bytes of a frame that matter: headers, and as much payload as rules look at.
const HEAD: usize = 256;
/// Packets of a capture in one question.
const BATCH: usize = 1024;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["packet", "pcap"])))]
pub struct Args {
    /// A packet, hexadecimal: an Ethernet frame, or an IP packet.
    #[arg(long, value_name = "HEX")]
    packet: Option<String>,
    /// A capture (pcap or pcapng): every packet of it.
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,
    /// Packets of the capture that are listed one by one.
    #[arg(long, value_name = "N", default_value_t = 10, requires = "pcap")]
    first: usize,
}

/// Asks the daemon, which knows what is in force.
///
/// # Errors
/// Where no daemon answers, and what cannot be read.
pub fn run(cli: &Cli, args: &Args) -> Result<ExitCode> {
    match (&args.packet, &args.pcap) {
        (Some(hex), _) => {
            let frames = vec![Frame { hex: frame(hex)?, wire: None }];
            let explained: Explained = ask(cli, &Request::Explain(Explain { frames, detail: true }))?;
            let explanation = explained.frames.first().context("the daemon explained nothing")?;
            if cli.json {
                println!("{}", serde_json::to_string(explanation)?);
            } else {
                print!("{}", harmless(&render(explanation)));
            }
        }
        (None, Some(path)) => {
            let summary = capture(cli, path, args.first)?;
            if cli.json {
                println!("{}", summary.to_json());
            } else {
                print!("{}", harmless(&summary.render()));
            }
        }
        (None, None) => bail!("name a packet (--packet HEX) or a capture (--pcap FILE)"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns a frame as plain hexadecimal digits. An IP packet gets an Ethernet header.
fn frame(text: &str) -> Result<String> {
    let text = text.strip_prefix("0x").unwrap_or(text);
    let hex: String = text.chars().filter(|c| !c.is_whitespace() && !matches!(c, ':' | '-' | '.')).collect();
    if let Some(wrong) = hex.chars().find(|c| !c.is_ascii_hexdigit()) {
        bail!("`{wrong}` is no hexadecimal digit: write the packet's bytes, as in 4500002c…");
    }
    if !hex.len().is_multiple_of(2) {
        bail!("{} digits are half a byte too many: write two for each byte", hex.len());
    }
    let hex = hex.to_lowercase();
    let known = ["0800", "86dd", "8100", "88a8", "0806"];
    let is_frame = hex.get(24..28).is_some_and(|ethertype| known.contains(&ethertype));
    let header = match hex.get(..1) {
        _ if is_frame => "",
        Some("4") => "0200000000020200000000010800",
        Some("6") => "02000000000202000000000186dd",
        _ => "",
    };
    Ok(format!("{header}{hex}"))
}

fn render(explanation: &Explanation) -> String {
    let Explanation { packet, class, because, lists, rules, .. } = explanation;
    let mut text = format!("{packet}\n  class    {class}\n");
    if lists.is_empty() {
        text.push_str("  lists    none names its source\n");
    }
    for (at, hit) in lists.iter().enumerate() {
        text.push_str(&format!("  {:<9}{}\n", if at == 0 { "lists" } else { "" }, list_text(hit)));
    }
    if rules.is_empty() {
        text.push_str("  rules    there is none\n");
    }
    for (at, rule) in rules.iter().enumerate() {
        text.push_str(&format!("  {:<9}{}\n", if at == 0 { "rules" } else { "" }, rule_text(rule)));
    }
    text.push_str(&format!("  verdict  {}: {because}\n", verdict(explanation)));
    text
}

fn verdict(explanation: &Explanation) -> String {
    let reason = explanation.reason.as_ref().map_or(String::new(), |reason| format!(" ({reason})"));
    let what = match explanation.verdict {
        Verdict::Pass => "passes",
        Verdict::Limit => "passes within the rate, is dropped above it",
        Verdict::Drop => "is DROPPED",
    };
    format!("{what}{reason}")
}

fn list_text(hit: &ListHit) -> String {
    let ListHit { list, prefix, reason, by, ends_s } = hit;
    let mut parts = vec![format!("{list}: {prefix}")];
    parts.extend(Some(by).filter(|by| !by.is_empty()).map(|by| format!("by {by}")));
    parts.extend(ends_s.map(|left| format!("ends in {}", duration(left))));
    parts.extend(Some(reason).filter(|reason| !reason.is_empty()).cloned());
    parts.join(", ")
}

fn rule_text(rule: &RuleVerdict) -> String {
    let RuleVerdict { id, origin, matches, action, mismatches, decides } = rule;
    let of = match origin {
        Origin::Incident(incident) => format!(" of {incident}"),
        Origin::Operator(_) | Origin::Config => String::new(),
    };
    let why = match mismatches.as_slice() {
        [] if *decides => "matches, and decides".to_owned(),
        [] if action == "count" => "matches, and counts".to_owned(),
        [] => "matches, but one before it decides".to_owned(),
        all => format!("no: {}", all.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")),
    };
    format!("{id}{of} `{matches} then {action}`: {why}")
}

/// What would happen to the packets of a capture.
#[derive(Default)]
struct Summary {
    packets: u64,
    /// Packets that are no Ethernet frame or too long.
    left_out: u64,
    /// By verdict and why.
    kinds: BTreeMap<(Verdict, String), u64>,
    first: Vec<Explanation>,
}

fn capture(cli: &Cli, path: &std::path::Path, first: usize) -> Result<Summary> {
    let (mut summary, mut batch, mut scratch) = (Summary::default(), Vec::new(), Vec::new());
    let mut failed = None;
    for_each_packet(path, |packet| {
        if failed.is_some() {
            return;
        }
        let Some(bytes) = packet.frame(&mut scratch) else {
            summary.left_out += 1;
            return;
        };
        let head = bytes.get(..HEAD).unwrap_or(bytes);
        let hex = head.iter().map(|byte| format!("{byte:02x}")).collect();
        batch.push(Frame { hex, wire: u32::try_from(bytes.len()).ok() });
        if batch.len() == BATCH {
            failed = summary.ask(cli, std::mem::take(&mut batch), first).err();
        }
    })
    .map_err(|error| anyhow::anyhow!(crate::chain(&error)))?;
    if let Some(error) = failed {
        return Err(error);
    }
    summary.ask(cli, batch, first)?;
    Ok(summary)
}

impl Summary {
    fn ask(&mut self, cli: &Cli, frames: Vec<Frame>, first: usize) -> Result<()> {
        if frames.is_empty() {
            return Ok(());
        }
        let explained: Explained = ask(cli, &Request::Explain(Explain { frames, detail: false }))?;
        for explanation in explained.frames {
            self.packets += 1;
            *self.kinds.entry((explanation.verdict, explanation.because.clone())).or_default() += 1;
            if self.first.len() < first {
                self.first.push(explanation);
            }
        }
        Ok(())
    }

    /// The kinds, most frequent first.
    fn by_count(&self) -> Vec<(&(Verdict, String), u64)> {
        let mut kinds: Vec<_> = self.kinds.iter().map(|(kind, packets)| (kind, *packets)).collect();
        kinds.sort_by_key(|(_, packets)| std::cmp::Reverse(*packets));
        kinds
    }

    fn to_json(&self) -> serde_json::Value {
        let kind = |((verdict, because), packets): (&(Verdict, String), u64)| json!({ "verdict": verdict, "because": because, "packets": packets });
        let kinds: Vec<_> = self.by_count().into_iter().map(kind).collect();
        json!({ "packets": self.packets, "left_out": self.left_out, "verdicts": kinds, "first": self.first })
    }

    fn render(&self) -> String {
        let name = |verdict: Verdict| match verdict {
            Verdict::Pass => "pass",
            Verdict::Limit => "limit",
            Verdict::Drop => "DROP",
        };
        let share = |packets: u64| percent(packets as f64 / self.packets.max(1) as f64);
        let row = |((verdict, because), packets): (&(Verdict, String), u64)| {
            vec![name(*verdict).to_owned(), count(packets), share(packets), because.clone()]
        };
        let rows: Vec<Vec<String>> = self.by_count().into_iter().map(row).collect();
        let mut text = format!("{} packets", count(self.packets));
        if self.left_out > 0 {
            text.push_str(&format!(", and {} that are no packets of a network", count(self.left_out)));
        }
        text.push('\n');
        text.push_str(&aligned(&["verdict", "packets", "share", "why"], &rows, &[0, 3]));
        if !self.first.is_empty() {
            text.push_str(&format!("the first {}\n", self.first.len()));
        }
        for explanation in &self.first {
            let Explanation { packet, class, verdict, because, .. } = explanation;
            text.push_str(&format!("  {:<5} {packet} [{class}]: {because}\n", name(*verdict)));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::Mismatch;

    #[test]
    fn packets_are_read_as_people_paste_them() {
        let ip = "45 00 00 1c:00.00";
        assert_eq!(frame(ip).unwrap(), "02000000000202000000000108004500001c0000");
        assert_eq!(frame("0x6000").unwrap(), "02000000000202000000000186dd6000");
        let whole = "0200000000024500000000010800FF";
        assert_eq!(frame(whole).unwrap(), whole.to_lowercase());
        for (text, part) in [("45zz", "`z` is no hexadecimal digit"), ("450", "half a byte")] {
            let error = frame(text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    fn explanation() -> Explanation {
        let rule = |id, text: &str, mismatches, decides| RuleVerdict {
            id,
            origin: Origin::Operator("root(0)".to_owned()),
            matches: text.to_owned(),
            action: "drop".to_owned(),
            mismatches,
            decides,
        };
        let no = Mismatch { dimension: "sport".to_owned(), wanted: "53".to_owned(), found: Some("123".to_owned()) };
        let hit = ListHit {
            list: "block".to_owned(),
            prefix: "192.0.2.0/24".parse().unwrap(),
            reason: "it floods".to_owned(),
            by: "root(0)".to_owned(),
            ends_s: Some(60),
        };
        Explanation {
            packet: "udp 192.0.2.1:123 > 198.51.100.10:9, 60 bytes, TTL 64".to_owned(),
            class: "udp_src_ntp".to_owned(),
            verdict: Verdict::Drop,
            reason: Some("block_prefix".to_owned()),
            because: "192.0.2.0/24 is listed (block)".to_owned(),
            lists: vec![hit],
            rules: vec![rule(1, "udp sport 53", vec![no], false), rule(2, "udp sport 123", Vec::new(), true)],
        }
    }

    #[test]
    fn an_explanation_says_everything() {
        let wanted = [
            "udp 192.0.2.1:123 > 198.51.100.10:9, 60 bytes, TTL 64",
            "  class    udp_src_ntp",
            "  lists    block: 192.0.2.0/24, by root(0), ends in 1m, it floods",
            "  rules    1 `udp sport 53 then drop`: no: sport is 123, not 53",
            "           2 `udp sport 123 then drop`: matches, and decides",
            "  verdict  is DROPPED (block_prefix): 192.0.2.0/24 is listed (block)",
            "",
        ];
        assert_eq!(render(&explanation()), wanted.join("\n"));
    }

    #[test]
    fn a_capture_is_summed_up() {
        let pass = "no list names its source and no rule that drops matches".to_owned();
        let summary = Summary {
            packets: 4,
            left_out: 1,
            kinds: BTreeMap::from([((Verdict::Drop, explanation().because), 3), ((Verdict::Pass, pass), 1)]),
            first: vec![explanation()],
        };
        let wanted = [
            "4 packets, and 1 that are no packets of a network",
            "  verdict  packets  share  why",
            "  DROP           3   75 %  192.0.2.0/24 is listed (block)",
            "  pass           1   25 %  no list names its source and no rule that drops matches",
            "the first 1",
            "  DROP  udp 192.0.2.1:123 > 198.51.100.10:9, 60 bytes, TTL 64 [udp_src_ntp]: 192.0.2.0/24 is listed (block)",
            "",
        ];
        assert_eq!(summary.render(), wanted.join("\n"));
        assert_eq!(
            summary.to_json()["verdicts"][0],
            json!({ "verdict": "drop", "because": "192.0.2.0/24 is listed (block)", "packets": 3 })
        );
    }
}
