//! Entries of the list, as scenarios that `ftagent replay` runs.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::list::{Attack, Background, Behaviour, Benign, List};

/// The folders that scenarios take captures from.
#[derive(Clone, Debug)]
pub struct Folders {
    /// Real captures.
    pub captures: PathBuf,
    /// Generated ones.
    pub generated: PathBuf,
}

/// A scenario and what has to come out of it.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its name, unique: `syn_cic2019/10x/web`, `cold/x10/ntp_sync`, `V4/v04_pulses_4s`.
    pub name: String,
    /// What it is for.
    pub kind: Kind,
    /// The scenario; a file name in it is absolute.
    pub text: String,
    /// Generated captures that it needs.
    pub needs: Vec<String>,
    /// About how many packets it has, to run long ones first.
    pub weight: f64,
}

/// What a case is for.
#[derive(Clone, Debug)]
pub enum Kind {
    /// An attack of the matrix.
    Attack {
        /// Its name in the list.
        attack: String,
        /// The incident's own vector.
        vector: String,
        /// The vectors that have to be reported, sorted.
        expected: Vec<String>,
        /// `3x`, or `3 copies`.
        intensity: String,
        /// Times the background's rate; 0 where it keeps its own timing.
        ratio: f64,
        /// The background.
        background: String,
        /// When the attack begins and ends.
        window_ms: (u64, u64),
        /// Whether it is a real capture.
        real: bool,
        /// Whether a field holds one value.
        constant: bool,
    },
    /// No incident.
    Benign,
    /// A behaviour.
    Behaviour(Box<Behaviour>),
}

const HOST: &str = "dst = \"198.51.100.10\", dst6 = \"2001:db8::10\"";

/// A source of a scenario that is being written.
struct Source<'a> {
    name: &'a str,
    file: String,
    label: &'a str,
    start_ms: u64,
    stop_ms: Option<u64>,
    pps: Option<f64>,
    victim: Option<&'a str>,
    /// The `rewrite` table; empty: none.
    rewrite: String,
}

impl Source<'_> {
    fn write(&self, out: &mut String) {
        let Self { name, file, label, start_ms, stop_ms, pps, victim, rewrite } = self;
        let mut line = |text: String| {
            out.push_str(&text);
            out.push('\n');
        };
        line(format!("\n[[source]]\nname = \"{name}\"\nfile = \"{file}\"\nlabel = \"{label}\"\nloop = true"));
        if *start_ms > 0 {
            line(format!("start = \"{start_ms}ms\""));
        }
        if let Some(stop) = stop_ms {
            line(format!("stop = \"{stop}ms\""));
        }
        if let Some(pps) = pps {
            line(format!("pps = {pps}"));
        }
        if let Some(victim) = victim {
            line(format!("victim = \"{victim}\""));
        }
        if !rewrite.is_empty() {
            line(format!("rewrite = {{ {rewrite} }}"));
        }
    }
}

impl Folders {
    fn file(&self, file: Option<&str>, generated: Option<&str>) -> Result<String> {
        let path = match (file, generated) {
            (Some(file), None) => self.captures.join(file),
            (None, Some(name)) => self.generated.join(format!("{name}.pcap")),
            _ => anyhow::bail!("give either `file` or `generated`"),
        };
        Ok(path.display().to_string())
    }

    fn background(&self, background: &Background, stop_ms: Option<u64>, out: &mut String) -> Result<()> {
        for source in &background.sources {
            let file = self.file(Some(&source.file), None)?;
            let name = format!("bg_{}", source.name);
            let rewrite = HOST.to_owned();
            let (pps, victim) = (Some(source.pps), source.victim.as_deref());
            Source { name: &name, file, label: "benign", start_ms: 0, stop_ms, pps, victim, rewrite }.write(out);
        }
        Ok(())
    }
}

/// Returns all cases of the list.
///
/// # Errors
/// Where an entry names what there is not.
pub fn cases(list: &List, folders: &Folders) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for attack in &list.matrix.attack {
        attack_cases(list, folders, attack, &mut cases).with_context(|| attack.name.clone())?;
    }
    for benign in &list.matrix.benign {
        benign_cases(list, folders, benign, &mut cases).with_context(|| benign.name.clone())?;
    }
    for behaviour in &list.behaviours {
        cases.extend(behaviour_case(list, folders, behaviour).with_context(|| behaviour.id.clone())?);
    }
    Ok(cases)
}

/// How strong an attack is.
#[derive(Clone, Copy)]
enum Strength {
    Ratio(f64),
    Copies(u32),
}

fn attack_cases(list: &List, folders: &Folders, attack: &Attack, cases: &mut Vec<Case>) -> Result<()> {
    let ratios = attack.ratios.as_ref().unwrap_or(&list.matrix.intensity.ratios);
    let strengths: Vec<_> = match &attack.copies {
        Some(copies) => copies.iter().map(|copies| Strength::Copies(*copies)).collect(),
        None => ratios.iter().map(|ratio| Strength::Ratio(*ratio)).collect(),
    };
    for strength in strengths {
        for background in &list.matrix.background {
            cases.push(attack_case(list, folders, attack, strength, background)?);
        }
    }
    Ok(())
}

fn attack_case(
    list: &List,
    folders: &Folders,
    attack: &Attack,
    strength: Strength,
    background: &Background,
) -> Result<Case> {
    let timing = list.matrix.timing;
    let (intensity, ratio, copies) = match strength {
        Strength::Ratio(ratio) => (format!("{ratio}x"), ratio, 1),
        Strength::Copies(copies) => (format!("{copies}copies"), 0.0, copies),
    };
    let name = format!("{}/{intensity}/{}", attack.name, background.name);
    // Ticks are 100 ms apart: a fixed beginning would make every time to detect the same.
    let start = timing.calm_ms + u64::from(seed(&name) % 100);
    let stop = start + attack.attack_ms.unwrap_or(timing.attack_ms);
    let end = stop + timing.tail_ms;
    let mut text = format!("# {name}\nduration = \"{end}ms\"\nseed = {}\n", seed(&name));
    folders.background(background, None, &mut text)?;
    let dst = attack.dst.as_ref().map_or(HOST.to_owned(), |dst| format!("dst = \"{dst}\""));
    let rewrite = attack.src.as_ref().map_or(dst.clone(), |src| format!("{dst}, src = \"{src}\""));
    let mut needs = Vec::new();
    for (number, part) in attack.parts().iter().enumerate() {
        needs.extend(part.generated.clone());
        for copy in 0..copies {
            let file = folders.file(part.file.as_deref(), part.generated.as_deref())?;
            let pps = (ratio > 0.0).then(|| (ratio * part.share * background.pps()).round());
            let source = format!("attack_{number}_{copy}");
            // Copies that begin together would send their requests in step.
            let start_ms = start + u64::from(copy) * 170;
            let (label, stop_ms, victim, rewrite) = ("attack", Some(stop), attack.victim.as_deref(), rewrite.clone());
            Source { name: &source, file, label, start_ms, stop_ms, pps, victim, rewrite }.write(&mut text);
        }
    }
    let seconds = |ms: u64| ms as f64 / 1000.0;
    let weight = background.pps() * (seconds(end) + ratio * seconds(stop - start));
    let kind = Kind::Attack {
        attack: attack.name.clone(),
        vector: attack.vector.clone(),
        expected: attack.expected(),
        intensity,
        ratio,
        background: background.name.clone(),
        window_ms: (start, stop),
        real: attack.file.is_some(),
        constant: !attack.constant.is_empty(),
    };
    Ok(Case { name, kind, text, needs, weight })
}

/// Cold and learned, native and ten times as fast, and real captures as they are.
fn benign_cases(list: &List, folders: &Folders, benign: &Benign, cases: &mut Vec<Case>) -> Result<()> {
    let timing = list.matrix.benign_timing;
    let background = list.matrix.background.iter().find(|background| background.name == benign.background);
    let background = background.with_context(|| format!("there is no background `{}`", benign.background))?;
    let file = folders.file(benign.file.as_deref(), benign.generated.as_deref())?;
    let mut rates = vec![("native", benign.pps)];
    rates.extend(benign.x10_pps.map(|pps| ("x10", Some(pps))));
    let keeps = benign.dst.as_deref() == Some("keep");
    let ways = [("cold", 0, !keeps), ("learned", timing.learn_ms, !keeps), ("as_is", 0, false)];
    for (way, start_ms, rewritten) in ways {
        for (rate, pps) in &rates {
            if way == "as_is" && (*rate != "native" || benign.generated.is_some()) {
                continue;
            }
            let name = format!("{way}/{rate}/{}", benign.name);
            let end = start_ms + timing.run_ms;
            let mut text = format!("# {name}\nduration = \"{end}ms\"\nseed = {}\n", seed(&name));
            if start_ms > 0 {
                folders.background(background, None, &mut text)?;
            }
            let rewrite = if rewritten { HOST.to_owned() } else { String::new() };
            let victim = benign.victim.as_deref().filter(|_| rewritten);
            let (source, file, pps) = (benign.name.as_str(), file.clone(), *pps);
            Source { name: source, file, label: "benign", start_ms, stop_ms: None, pps, victim, rewrite }
                .write(&mut text);
            let learned = if start_ms > 0 { background.pps() } else { 0.0 };
            // The rate of a capture at its own timing is not known here; a few have thousands.
            let weight = (learned + pps.unwrap_or(2000.0)) * timing.run_ms as f64 / 1000.0;
            let needs = benign.generated.iter().cloned().collect();
            cases.push(Case { name, kind: Kind::Benign, text, needs, weight });
        }
    }
    Ok(())
}

fn behaviour_case(list: &List, folders: &Folders, behaviour: &Behaviour) -> Result<Option<Case>> {
    const REAL: &str = "../../../shared/captures";
    const GENERATED: &str = "../../target/evaluate/captures";
    let Some(file) = &behaviour.file else { return Ok(None) };
    let path = list.dir.join(file);
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let stem = Path::new(file).file_stem().unwrap_or_default().to_string_lossy();
    let name = format!("{}/{stem}", behaviour.id);
    let needs = generated_in(&text, GENERATED);
    let text = text.replace(REAL, &folders.captures.display().to_string());
    let text = text.replace(GENERATED, &folders.generated.display().to_string());
    let kind = Kind::Behaviour(Box::new(behaviour.clone()));
    // Some are long: all of them go first.
    Ok(Some(Case { name, kind, text, needs, weight: 1e9 }))
}

fn generated_in(text: &str, folder: &str) -> Vec<String> {
    let parts = text.split(folder).skip(1);
    parts.filter_map(|part| part.trim_start_matches('/').split_once(".pcap")).map(|(name, _)| name.to_owned()).collect()
}

/// Every scenario has dice of its own, which hang on its name alone.
fn seed(name: &str) -> u32 {
    // FNV-1a (Fowler, Noll, Vo).
    name.bytes().fold(0x811c_9dc5, |hash: u32, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// Returns a name as a file's.
pub fn file_name(case: &str) -> String {
    let mut name = String::new();
    for c in case.chars() {
        let _written = if c.is_alphanumeric() { write!(name, "{c}") } else { write!(name, "_") };
    }
    name + ".toml"
}
