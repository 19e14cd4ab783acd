//! What is known of an attack's packets: `indicators.json`, and the same as CSV.

use std::{
    fmt::Write as _,
    fs, io,
    net::IpAddr,
    path::Path,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::pattern::Kind;

/// The version of the format.
pub const VERSION: u32 = 1;

/// The file's name in an incident's directory.
pub const FILE_NAME: &str = "indicators.json";

/// Bytes of the file at most.
const MOST_BYTES: u64 = 16 << 20;

/// The indicators of an incident. Packets are what samples stand for: the strides they were drawn with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IocReport {
    /// The version of this form.
    pub version: u32,
    /// The incident.
    pub incident: String,
    /// Its vector.
    pub vector: String,
    /// Every vector in it.
    pub vectors: Vec<String>,
    /// The end of the first tick that is in it, milliseconds since 1970.
    pub from_ms: i64,
    /// That of the last.
    pub to_ms: i64,
    /// What makes a packet part of the attack.
    pub basis: Basis,
    /// Samples that were looked at.
    pub samples: u64,
    /// Packets that they stand for.
    pub packets: u64,
    /// Whether sources are forged.
    pub spoofing: Spoofing,
    /// Different sources, within a few per cent.
    pub distinct_sources: u64,
    /// Who sent it, most packets first; without those that nothing speaks for being real.
    pub sources: Vec<Source>,
    /// Servers whose answers it consists of, most packets first.
    pub reflectors: Vec<Source>,
    /// Networks of the sources: /24 and /48.
    pub prefixes: Vec<Ranked>,
    /// Beginnings of payloads that recur.
    pub payloads: Vec<Head>,
    /// Patterns that matched.
    pub patterns: Vec<Hit>,
    /// Source ports.
    pub source_ports: Vec<Ranked>,
    /// Destination ports.
    pub destination_ports: Vec<Ranked>,
    /// Lengths of frames, bytes.
    pub lengths: Vec<Ranked>,
    /// TTLs and hop limits.
    pub ttls: Vec<Ranked>,
    /// Where it went. Not in what is exported for others.
    pub targets: Vec<Ranked>,
    /// TLS clients.
    pub tls: Tls,
    /// The tool that most packets were made by, if there is one.
    pub tool: Option<Tool>,
}

/// What makes a packet part of the attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// It was dropped by a decision about the attack, or matches a rule against it.
    Rules,
    /// It is of a class that the incident is about: customers' packets may be among them.
    Classes,
    /// Nothing is known: every packet counts.
    Everything,
}

/// Whether sources are forged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spoofing {
    /// What it looks like.
    pub verdict: Verdict,
    /// How sure that is, 0 to 1.
    pub confidence: f64,
    /// Why, in words.
    pub why: Vec<String>,
}

/// What sources look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Drawn at random: the addresses say nothing.
    Forged,
    /// Servers that answer forged requests: the addresses are theirs.
    Reflected,
    /// They are who sent it.
    Real,
    /// Nothing speaks clearly for either.
    Unknown,
}

/// A source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Source {
    /// Its address.
    pub address: IpAddr,
    /// Packets that it certainly sent.
    pub packets: u64,
    /// The share of all.
    pub share: f64,
    /// How sure it is that the address is not forged, 0 to 1.
    pub confidence: f64,
    /// Why, in words.
    pub why: String,
    /// First and last tick in which it was seen, milliseconds since 1970.
    pub first_ms: i64,
    /// See [`Self::first_ms`].
    pub last_ms: i64,
    /// The reflected protocol's port, for reflectors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// A value and how often it occurred.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ranked {
    /// The value, as people write it.
    pub value: String,
    /// Packets that certainly had it.
    pub packets: u64,
    /// The share of all.
    pub share: f64,
}

/// The beginning of payloads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// Its bytes, in hexadecimal.
    pub hex: String,
    /// The same, a dot where a byte cannot be printed.
    pub text: String,
    /// Packets that certainly had it.
    pub packets: u64,
    /// The share of all.
    pub share: f64,
}

/// A pattern that matched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hit {
    /// Its name.
    pub name: String,
    /// What it tells.
    pub kind: Kind,
    /// The tool or family; empty where there is none.
    pub tool: String,
    /// What it is.
    pub about: String,
    /// Where that is published.
    pub source: String,
    /// How sure it is that a packet which matches was made so.
    pub confidence: f64,
    /// Packets that matched.
    pub packets: u64,
    /// The share of all.
    pub share: f64,
}

/// TLS clients.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tls {
    /// JA4 fingerprints, of ClientHellos that were kept whole.
    pub fingerprints: Vec<Ranked>,
    /// Samples with a whole ClientHello.
    pub whole: u64,
    /// Samples with one that was cut short: no fingerprint can be had of those.
    pub cut: u64,
    /// Samples with one that contradicts itself.
    pub broken: u64,
}

/// A tool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// The pattern that says so.
    pub pattern: String,
    /// The share of packets that match it.
    pub share: f64,
    /// How sure that is: the pattern's confidence, times the share.
    pub confidence: f64,
}

/// Writes a report into an incident's directory, readable by its owner alone.
///
/// # Errors
/// What the file system says; a file that was there is in place then.
pub fn save(dir: &Path, report: &IocReport) -> io::Result<()> {
    let bytes = serde_json::to_vec_pretty(report).map_err(io::Error::other)?;
    // Made by `tempfile`, which lets nobody else read it.
    crate::record::replace(&dir.join(FILE_NAME), &bytes)
}

/// Reads a report from an incident's directory.
///
/// # Errors
/// Where there is none, it is of another version, or it makes no sense; in words, with the remedy.
pub fn load(dir: &Path) -> Result<IocReport, String> {
    let path = dir.join(FILE_NAME);
    let shown = path.display();
    let meta = fs::symlink_metadata(&path).map_err(|error| format!("{shown} cannot be read ({error})"))?;
    if !meta.is_file() || meta.len() > MOST_BYTES {
        return Err(format!("{shown} is no file of indicators: it is a link, a device or too long"));
    }
    let bytes = fs::read(&path).map_err(|error| format!("{shown} cannot be read ({error})"))?;
    let value: serde_json::Value = serde_json::from_slice(&bytes).map_err(|error| {
        format!("{shown} is damaged ({error}); `ftagent ioc test --pcap` on the capture beside it works all the same")
    })?;
    match value.get("version").and_then(serde_json::Value::as_u64) {
        Some(version) if version == u64::from(VERSION) => {}
        Some(version) => {
            return Err(format!(
                "{shown} has version {version}, and this program writes {VERSION}; use the program that wrote it"
            ));
        }
        None => return Err(format!("{shown} names no version; it was not written by this program")),
    }
    serde_json::from_value(value).map_err(|error| format!("{shown} is damaged ({error})"))
}

/// Writes a time as RFC 3339 with milliseconds.
pub fn rfc3339(ms: i64) -> String {
    const LAST_MS: i64 = 253_402_300_799_999;
    let ms = u64::try_from(ms.clamp(0, LAST_MS)).unwrap_or_default();
    humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH + Duration::from_millis(ms)).to_string()
}

/// A cell of a CSV file (RFC 4180). What a spreadsheet would take for a formula is disarmed: payloads are
/// written by the attacker.
fn cell(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { '.' } else { c }).collect();
    let text = if text.starts_with(['=', '+', '-', '@', '\t']) { format!("'{text}") } else { text };
    if text.contains(['"', ',', '\n']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

impl IocReport {
    /// Writes it as CSV: a line for each indicator. The host's own addresses are not in it.
    pub fn csv(&self) -> String {
        let mut text = String::from("type,value,packets,share,confidence,first_seen,last_seen,about\r\n");
        let (first, last) = (rfc3339(self.from_ms), rfc3339(self.to_ms));
        let mut line = |kind: &str,
                        value: &str,
                        packets: u64,
                        share: f64,
                        confidence: Option<f64>,
                        seen: (&str, &str),
                        about: &str| {
            let confidence = confidence.map_or_else(String::new, |confidence| format!("{confidence:.2}"));
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "{kind},{},{packets},{share:.6},{confidence},{},{},{}\r\n",
                cell(value),
                seen.0,
                seen.1,
                cell(about)
            );
        };
        for (kind, list) in [("source", &self.sources), ("reflector", &self.reflectors)] {
            for source in list {
                let seen = (rfc3339(source.first_ms), rfc3339(source.last_ms));
                let (value, confidence) = (source.address.to_string(), Some(source.confidence));
                line(kind, &value, source.packets, source.share, confidence, (&seen.0, &seen.1), &source.why);
            }
        }
        let seen = (first.as_str(), last.as_str());
        for hit in &self.patterns {
            line("pattern", &hit.name, hit.packets, hit.share, Some(hit.confidence), seen, &hit.about);
        }
        for head in &self.payloads {
            line("payload", &head.hex, head.packets, head.share, None, seen, &head.text);
        }
        let lists = [
            ("prefix", &self.prefixes),
            ("source_port", &self.source_ports),
            ("destination_port", &self.destination_ports),
            ("frame_length", &self.lengths),
            ("ttl", &self.ttls),
            ("ja4", &self.tls.fingerprints),
        ];
        for (kind, list) in lists {
            list.iter().for_each(|item| line(kind, &item.value, item.packets, item.share, None, seen, ""));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_cannot_break_out_or_be_formulas() {
        let cases = [
            ("plain", "plain"),
            ("a,b", "\"a,b\""),
            ("say \"x\"", "\"say \"\"x\"\"\""),
            ("=cmd|'/c calc'!A0", "'=cmd|'/c calc'!A0"),
            ("@SUM(1,2)", "\"'@SUM(1,2)\""),
            ("a\r\nb\x1b[2J", "a..b.[2J"),
        ];
        for (text, wanted) in cases {
            assert_eq!(cell(text), wanted);
        }
    }
}
