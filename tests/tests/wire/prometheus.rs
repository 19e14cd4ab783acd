//! Reads the Prometheus text format, version 0.0.4, more strictly than scrapers do.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail, ensure};

/// What is known of the family whose lines are being read.
#[derive(Default)]
struct Family<'a> {
    name: &'a str,
    kind: Option<&'a str>,
    samples: usize,
}

impl Family<'_> {
    /// Returns whether a series of this name belongs to it: a histogram has three kinds of them.
    fn owns(&self, name: &str) -> bool {
        match self.kind {
            None => false,
            Some("histogram") => {
                name.strip_prefix(self.name).is_some_and(|suffix| matches!(suffix, "_bucket" | "_sum" | "_count"))
            }
            Some(_) => name == self.name,
        }
    }
}

/// Returns the values by series, `name{label="value",…}` with sorted labels.
///
/// # Errors
/// Where a line breaks the format, a family is described twice or not at once, a series comes
/// twice, or a name breaks the conventions: counters end in `_total`, and only they do.
pub fn parse(text: &str) -> Result<BTreeMap<String, f64>> {
    ensure!(text.ends_with('\n'), "the last line does not end");
    let (mut series, mut families, mut family) = (BTreeMap::new(), BTreeSet::new(), Family::default());
    for (number, line) in (1..).zip(text.lines()) {
        let read = read_line(line, &mut series, &mut families, &mut family);
        read.with_context(|| format!("line {number}: {line}"))?;
    }
    finished(&family)?;
    Ok(series)
}

fn read_line<'a>(
    line: &'a str,
    series: &mut BTreeMap<String, f64>,
    families: &mut BTreeSet<&'a str>,
    family: &mut Family<'a>,
) -> Result<()> {
    if let Some(help) = line.strip_prefix("# HELP ") {
        let (name, text) = help.split_once(' ').context("no help text")?;
        ensure!(is_name(name) && !text.trim().is_empty(), "no name or no help text");
        finished(family)?;
        ensure!(families.insert(name), "the family is described twice");
        *family = Family { name, ..Family::default() };
    } else if let Some(kind) = line.strip_prefix("# TYPE ") {
        let (name, kind) = kind.split_once(' ').context("no type")?;
        ensure!(name == family.name && family.kind.is_none(), "the type is not next to the help text");
        ensure!(matches!(kind, "counter" | "gauge" | "histogram"), "an unknown type");
        ensure!((kind == "counter") == name.ends_with("_total"), "counters, and only they, end in _total");
        family.kind = Some(kind);
    } else {
        let (key, value) = sample(line)?;
        let name = key.split('{').next().unwrap_or_default();
        ensure!(family.owns(name), "the sample is not below its family's description");
        ensure!(family.kind != Some("counter") || value >= 0.0, "a counter below 0");
        ensure!(series.insert(key, value).is_none(), "the series comes twice");
        family.samples += 1;
    }
    Ok(())
}

fn finished(family: &Family<'_>) -> Result<()> {
    ensure!(family.name.is_empty() || family.samples > 0, "family {} has no sample", family.name);
    Ok(())
}

/// Reads `name value` or `name{label="value",…} value`.
fn sample(line: &str) -> Result<(String, f64)> {
    let (key, value) = line.rsplit_once(' ').context("no value")?;
    let value: f64 = value.parse().context("the value is no number")?;
    ensure!(value.is_finite(), "the value is not finite");
    let Some((name, rest)) = key.split_once('{') else {
        ensure!(is_name(key), "not a name");
        return Ok((key.to_owned(), value));
    };
    ensure!(is_name(name), "not a name");
    let labels = labels(rest.strip_suffix('}').context("the labels do not end")?)?;
    let labels: Vec<String> = labels.into_iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
    Ok((format!("{name}{{{}}}", labels.join(",")), value))
}

fn labels(mut text: &str) -> Result<BTreeMap<&str, &str>> {
    let mut found = BTreeMap::new();
    while !text.is_empty() {
        let (name, rest) = text.split_once("=\"").context("a label has no value")?;
        ensure!(is_name(name) && !name.contains(':'), "not the name of a label: {name}");
        let end = closing_quote(rest)?;
        ensure!(found.insert(name, &rest[..end]).is_none(), "label {name} comes twice");
        text = rest[end + 1..].strip_prefix(',').unwrap_or(&rest[end + 1..]);
    }
    Ok(found)
}

/// Returns where a quoted value ends; backslash, quote and newline are escaped in it.
fn closing_quote(text: &str) -> Result<usize> {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match (escaped, byte) {
            (true, b'\\' | b'"' | b'n') => escaped = false,
            (true, _) => bail!("an unknown escape"),
            (false, b'\\') => escaped = true,
            (false, b'"') => return Ok(at),
            (false, _) => {}
        }
    }
    bail!("a label's value does not end")
}

fn is_name(text: &str) -> bool {
    let first = |c: char| c.is_ascii_alphabetic() || c == '_' || c == ':';
    text.starts_with(first) && text.chars().all(|c| first(c) || c.is_ascii_digit())
}
