//! `[uplink]`, `[ladder]` and `[[ladder.rungs]]`.

use std::time::Duration;

use ipnet::IpNet;

use super::{
    Problem,
    check::{duration, number, prefixes},
    raw::{RawLadder, RawRung, RawUplink},
};
use crate::decide::ladder::{Approve, Kind, LadderMode, Policy, Probe, Rung, When};

/// The link towards the network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UplinkConfig {
    /// What it carries, bits a second; absent: what the drivers say.
    pub capacity_bps: Option<u64>,
    /// The operator's own space; empty: this host's own addresses.
    pub prefixes: Vec<IpNet>,
}

/// What is asked of the network upstream, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LadderConfig {
    /// Whether it is used.
    pub mode: LadderMode,
    /// How long a black hole waits for the answer to a rung below it.
    pub patience: Duration,
    /// What a probe lets through, bits a second.
    pub trickle_bps: u64,
    /// What is never black-holed.
    pub never_black_hole: Vec<IpNet>,
    /// The rungs, lowest first; empty: the built-in ones.
    pub rungs: Vec<RungConfig>,
}

/// A rung as it is written; shares are in per cent, and 0 is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RungConfig {
    /// The plane.
    pub plane: String,
    /// What it is asked for.
    pub kind: Kind,
    /// Who has to say yes.
    pub approve: Approve,
    /// See [`When`].
    pub utilisation_percent: u32,
    /// See [`When`].
    pub lost_pps: u32,
    /// See [`When`].
    pub softirq_percent: u32,
    /// See [`When`].
    pub residual_percent: u32,
    /// How long the plane takes.
    pub activation: Duration,
    /// How long it stays.
    pub hold: Duration,
    /// How long it stays at most.
    pub longest_hold: Duration,
    /// Announcements at once at most.
    pub most: usize,
    /// Times a day without an operator; 0: no cap.
    pub per_day: u32,
    /// How it comes back.
    pub probe: Probe,
}

const HOUR: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);

/// Reads a rate: a number and its unit; bits a second.
pub fn rate(text: &str) -> Option<u64> {
    const UNITS: [(&str, f64); 5] =
        [("Tbit/s", 1e12), ("Gbit/s", 1e9), ("Mbit/s", 1e6), ("kbit/s", 1e3), ("bit/s", 1.0)];
    let text = text.trim();
    let (unit, scale) = UNITS.iter().find(|(unit, _)| text.ends_with(unit))?;
    let number: f64 = text.strip_suffix(unit)?.trim().parse().ok()?;
    let bits = number * scale;
    (bits.is_finite() && (1.0..=1e15).contains(&bits)).then_some(bits as u64)
}

pub(super) fn uplink(raw: &RawUplink, problems: &mut Vec<Problem>) -> UplinkConfig {
    let capacity_bps = (!raw.capacity.is_empty()).then(|| bits("uplink.capacity", &raw.capacity, problems)).flatten();
    UplinkConfig { capacity_bps, prefixes: prefixes("uplink.prefixes", &raw.prefixes, 1024, problems) }
}

fn bits(path: &str, text: &str, problems: &mut Vec<Problem>) -> Option<u64> {
    let found = rate(text);
    if found.is_none() {
        let what = format!("\"{text}\" is not a rate");
        problems.push(Problem::new(path, what, "write a number and a unit, as \"950 Mbit/s\" or \"2.5 Gbit/s\""));
    }
    found
}

pub(super) fn checked(raw: &RawLadder, problems: &mut Vec<Problem>) -> LadderConfig {
    let patience = duration("ladder.patience", &raw.patience, Duration::ZERO..=HOUR, problems);
    let trickle = bits("ladder.trickle", &raw.trickle, problems);
    if trickle.is_some_and(|bits| !(10_000..=1_000_000_000).contains(&bits)) {
        let what = format!("{} is out of range", raw.trickle);
        problems.push(Problem::new("ladder.trickle", what, "write a rate from 10 kbit/s to 1 Gbit/s"));
    }
    for (i, rung) in raw.rungs.iter().enumerate() {
        if raw.rungs.iter().take(i).any(|other| other.plane == rung.plane && !rung.plane.is_empty()) {
            let what = format!("\"{}\" is a rung already", rung.plane);
            problems.push(Problem::new(format!("ladder.rungs[{i}].plane"), what, "name each plane once"));
        }
    }
    LadderConfig {
        mode: raw.mode,
        patience: patience.unwrap_or_default(),
        trickle_bps: trickle.unwrap_or(1_000_000),
        never_black_hole: prefixes("ladder.never_black_hole", &raw.never_black_hole, 1024, problems),
        rungs: raw.rungs.iter().enumerate().map(|(i, raw)| rung(i, raw, problems)).collect(),
    }
}

fn rung(i: usize, raw: &RawRung, problems: &mut Vec<Problem>) -> RungConfig {
    let path = |key: &str| format!("ladder.rungs[{i}].{key}");
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    if raw.plane.is_empty() {
        let remedy = "name one: \"flowspec\", \"rtbh\", \"source_rtbh\", or a provider";
        problems.push(Problem::new(path("plane"), "is missing", remedy));
    } else if raw.plane.len() > 64 || !raw.plane.chars().all(plain) {
        let what = format!("\"{}\" is not a name", raw.plane);
        problems.push(Problem::new(path("plane"), what, "use 1 to 64 of the characters a-z, 0-9, \"_\" and \"-\""));
    }
    let kind = kind_of(&path("does"), raw, problems);
    let sensible = Rung::sensible(&raw.plane, kind);
    let mut time = |key: &str, text: &str, sensible_ms: u64| {
        let given = (!text.is_empty()).then(|| duration(&path(key), text, SECOND..=24 * HOUR, problems)).flatten();
        given.unwrap_or(Duration::from_millis(sensible_ms))
    };
    let activation = time("activation", &raw.activation, sensible.activation_ms);
    let hold = time("hold", &raw.hold, sensible.hold_ms);
    let longest_hold = time("longest_hold", &raw.longest_hold, sensible.longest_hold_ms).max(hold);
    let probe = match raw.probe.as_str() {
        "" => sensible.probe,
        "withdraw" => Probe::Withdraw,
        "trickle" if kind == Kind::Filter => Probe::Trickle,
        other => {
            let what = format!("\"{other}\" is no way to probe this");
            problems.push(Problem::new(path("probe"), what, "write \"withdraw\", or \"trickle\" for filters"));
            sensible.probe
        }
    };
    let per_day = number(&path("per_day"), raw.per_day, 0, 1000, problems);
    if raw.approve == Approve::Auto && per_day == 0 && raw.plane != "flowspec" {
        let what = "is missing: without an operator this is done only so many times a day";
        problems.push(Problem::new(path("per_day"), what, "write how often, as per_day = 2"));
    }
    let mut condition = |key: &str, value: i64, most: u32, sensible: Option<f64>, scale: f64| match value {
        -1 => sensible.map_or(0, |of| (of * scale).round() as u32),
        value => number(&path(key), value, 0, most, problems),
    };
    let when = sensible.when;
    let utilisation_percent = condition("utilisation_percent", raw.utilisation_percent, 100, when.utilisation, 100.0);
    let lost_pps = condition("lost_pps", raw.lost_pps, 1_000_000_000, when.lost_pps, 1.0);
    let softirq_percent = condition("softirq_percent", raw.softirq_percent, 100, when.softirq, 100.0);
    let residual_percent = condition("residual_percent", raw.residual_percent, 100, when.residual, 100.0);
    let rung = RungConfig {
        plane: raw.plane.clone(),
        kind,
        approve: raw.approve,
        utilisation_percent,
        lost_pps,
        softirq_percent,
        residual_percent,
        activation,
        hold,
        longest_hold,
        most: match number(&path("most"), raw.most, 0, 256, problems) {
            0 => sensible.most,
            most => most as usize,
        },
        per_day,
        probe,
    };
    if [rung.utilisation_percent, rung.lost_pps, rung.softirq_percent, rung.residual_percent] == [0; 4] {
        let remedy = "give it one, as utilisation_percent = 80";
        problems.push(Problem::new(path("plane"), "has no condition, so it would never be climbed", remedy));
    }
    rung
}

fn kind_of(path: &str, raw: &RawRung, problems: &mut Vec<Problem>) -> Kind {
    let own = match raw.plane.as_str() {
        "flowspec" => Some(Kind::Filter),
        "rtbh" => Some(Kind::BlackHole),
        "source_rtbh" => Some(Kind::SourceBlackHole),
        _ => None,
    };
    match (own, raw.does.as_str()) {
        (Some(kind), "") => kind,
        (None, "" | "divert") => Kind::Scrub,
        (None, "filter") => Kind::Filter,
        (None, "black-hole") => Kind::BlackHole,
        (None, "source-black-hole") => Kind::SourceBlackHole,
        (Some(kind), _) => {
            let what = format!("is for providers, and {} does one thing", raw.plane);
            problems.push(Problem::new(path, what, "leave it out"));
            kind
        }
        (None, other) => {
            let what = format!("\"{other}\" is nothing that a provider does");
            let remedy = "write \"divert\", \"filter\", \"black-hole\" or \"source-black-hole\"";
            problems.push(Problem::new(path, what, remedy));
            Kind::Scrub
        }
    }
}

impl LadderConfig {
    /// Returns the policy, where these planes are there. Rungs of others are left out.
    pub fn policy(&self, planes: &[(String, Kind)]) -> Policy {
        let (patience_ms, trickle_bps) = (self.patience.as_millis() as u64, self.trickle_bps);
        let built_in = Policy { patience_ms, trickle_bps, ..Policy::built_in(self.mode, planes) };
        if self.rungs.is_empty() {
            return built_in;
        }
        let rungs: Vec<Rung> = self.rungs.iter().map(RungConfig::rung).collect();
        let there = |rung: &Rung| planes.iter().any(|(plane, _)| plane == rung.plane());
        Policy { rungs: rungs.into_iter().filter(there).collect(), ..built_in }
    }

    /// Returns the rungs that have no plane.
    pub fn missing(&self, planes: &[(String, Kind)]) -> Vec<&str> {
        let there = |rung: &RungConfig| planes.iter().any(|(plane, _)| plane == rung.rung().plane());
        self.rungs.iter().filter(|rung| !there(rung)).map(|rung| rung.plane.as_str()).collect()
    }
}

impl RungConfig {
    fn rung(&self) -> Rung {
        let share = |percent: u32| (percent > 0).then(|| f64::from(percent) / 100.0);
        Rung {
            name: self.plane.clone(),
            kind: self.kind,
            when: When {
                utilisation: share(self.utilisation_percent),
                lost_pps: (self.lost_pps > 0).then(|| f64::from(self.lost_pps)),
                softirq: share(self.softirq_percent),
                residual: share(self.residual_percent),
            },
            approve: self.approve,
            activation_ms: self.activation.as_millis() as u64,
            hold_ms: self.hold.as_millis() as u64,
            longest_hold_ms: self.longest_hold.as_millis() as u64,
            most: self.most,
            per_day: self.per_day,
            probe: self.probe,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn rates_are_read() {
        let cases = [
            ("1 Gbit/s", Some(1_000_000_000)),
            ("2.5Gbit/s", Some(2_500_000_000)),
            ("950 Mbit/s", Some(950_000_000)),
            ("10 kbit/s", Some(10_000)),
            ("7 bit/s", Some(7)),
            ("1 GB/s", None),
            ("Gbit/s", None),
            ("-1 Gbit/s", None),
            ("nan Gbit/s", None),
            ("1", None),
        ];
        for (text, expected) in cases {
            assert_eq!(rate(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_not_written_is_sensible_for_the_plane() {
        let text = "[[ladder.rungs]]\nplane = \"flowspec\"\napprove = \"auto\"\n\
                    [[ladder.rungs]]\nplane = \"cloudflare\"\nhold = \"45m\"\n\
                    [[ladder.rungs]]\nplane = \"rtbh\"\nutilisation_percent = 98\nper_day = 2\napprove = \"auto\"\n";
        let config = Config::parse(text, "t").unwrap();
        let planes = [("flowspec".to_owned(), Kind::Filter), ("rtbh".to_owned(), Kind::BlackHole)];
        let policy = config.ladder.policy(&planes);
        let names: Vec<&str> = policy.rungs.iter().map(|rung| rung.name.as_str()).collect();
        assert_eq!(names, ["flowspec", "rtbh"]);
        assert_eq!(config.ladder.missing(&planes), ["cloudflare"]);
        let [flowspec, cloudflare, rtbh] = &config.ladder.rungs[..] else { panic!("three") };
        assert_eq!((flowspec.probe, flowspec.activation), (Probe::Trickle, SECOND));
        assert_eq!((cloudflare.kind, cloudflare.hold, cloudflare.activation), (Kind::Scrub, HOUR * 3 / 4, HOUR / 12));
        assert_eq!((rtbh.utilisation_percent, rtbh.per_day, rtbh.probe), (98, 2, Probe::Withdraw));
        // What is written is the operator's; of the rest, what is sensible for this plane.
        assert_eq!((rtbh.lost_pps, rtbh.softirq_percent, flowspec.utilisation_percent), (0, 0, 70));
        let built_in: Vec<String> =
            Config::default().ladder.policy(&planes).rungs.into_iter().map(|rung| rung.name).collect();
        assert_eq!(built_in, ["flowspec", "source_rtbh", "rtbh"]);
        assert_eq!(Config::default().ladder.policy(&[]).rungs, []);
    }

    #[test]
    fn mistakes_name_place_and_remedy() {
        let rung = |text: &str| format!("[[ladder.rungs]]\n{text}\n");
        let cases = [
            ("[uplink]\ncapacity = \"fast\"".to_owned(), ["t:2:", "not a rate", "950 Mbit/s"]),
            ("[ladder]\nmode = \"maybe\"".to_owned(), ["t:2:", "`ladder.mode`", "dry-run"]),
            ("[ladder]\ntrickle = \"1 bit/s\"".to_owned(), ["t:2:", "out of range", "10 kbit/s"]),
            (rung("approve = \"auto\"\nper_day = 1"), ["t:1:", "`ladder.rungs[0].plane`", "is missing"]),
            (rung("plane = \"rtbh\"\napprove = \"auto\""), ["t:1:", "`ladder.rungs[0].per_day`", "per_day = 2"]),
            (rung("plane = \"rtbh\"\nprobe = \"trickle\""), ["t:3:", "no way to probe", "withdraw"]),
            (rung("plane = \"rtbh\"\ndoes = \"filter\""), ["t:3:", "is for providers", "leave it out"]),
            (rung("plane = \"x\"\nhold = \"1\""), ["t:3:", "not a duration", "10m"]),
            (rung("plane = \"x\"\nplain = 1"), ["t:3:", "not a key", "`ladder.rungs[].plane`"]),
            (rung("plane = \"a\"\n[[ladder.rungs]]\nplane = \"a\""), ["t:4:", "a rung already", "once"]),
            (
                rung("plane = \"x\"\nutilisation_percent = 0\nlost_pps = 0\nsoftirq_percent = 0"),
                ["t:2:", "no condition", "utilisation_percent = 80"],
            ),
        ];
        for (text, parts) in cases {
            let error = Config::parse(&text, "t").unwrap_err().to_string();
            assert_eq!(error.lines().count(), 1, "{text}\n{error}");
            for part in parts {
                assert!(error.contains(part), "{text}\nlacks {part:?}: {error}");
            }
        }
    }
}
