//! What must hold to climb, and how one comes back: the operator's, or what is sensible without one.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Whether the ladder is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LadderMode {
    /// Nothing is decided and nothing is asked for.
    #[default]
    Off,
    /// It is decided and said what would be asked for; no plane hears of it.
    DryRun,
    /// It is asked for.
    On,
}

impl LadderMode {
    /// Returns the name as the configuration writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::DryRun => "dry-run",
            Self::On => "on",
        }
    }
}

/// What a rung does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Filters, by BGP FlowSpec or a provider's firewall.
    Filter,
    /// Leads traffic through a scrubbing centre.
    Scrub,
    /// Black-holes the victim.
    BlackHole,
    /// Black-holes sources.
    SourceBlackHole,
}

/// Who has to say yes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Approve {
    /// An operator, each time: `ftagent ladder approve`.
    #[default]
    Ask,
    /// Nobody, up to the daily cap.
    Auto,
}

impl Approve {
    /// Returns the name as the configuration writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ask => "ask",
            Self::Auto => "auto",
        }
    }
}

/// How it is found out whether a rung is still needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Probe {
    /// A little of what was dropped is let through: it shows whether there still is any. Where the plane cannot,
    /// [`Self::Withdraw`].
    Trickle,
    /// It is taken back for a moment.
    Withdraw,
}

/// What must hold to climb: any of these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct When {
    /// The uplink is this full, 0 to 1.
    pub utilisation: Option<f64>,
    /// Packets a second that cards and backlogs lose.
    pub lost_pps: Option<f64>,
    /// Share of the time that the busiest CPU spends in soft interrupts, 0 to 1.
    pub softirq: Option<f64>,
    /// Share of the attack that passes what is dropped here, 0 to 1.
    pub residual: Option<f64>,
}

/// A rung.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rung {
    /// As the configuration names it: `flowspec`, `rtbh`, `source_rtbh`, or the name of a `[[scrub]]`.
    pub name: String,
    /// What it does.
    pub kind: Kind,
    /// What must hold.
    pub when: When,
    /// Who has to say yes.
    pub approve: Approve,
    /// How long the plane takes until it works, milliseconds. It is climbed so much earlier than the uplink
    /// would be full.
    pub activation_ms: u64,
    /// How long it stays before it is probed whether it is needed, milliseconds; doubles with each probe that finds
    /// the attack still there.
    pub hold_ms: u64,
    /// The longest time to the next probe, milliseconds.
    pub longest_hold_ms: u64,
    /// Steps at once at most.
    pub most: usize,
    /// Times in 24 hours that it is climbed without an operator's word; 0: as often as need be.
    pub per_day: u32,
    /// How it comes back.
    pub probe: Probe,
}

impl Rung {
    /// Returns the plane that carries it out: source black holes are announced by the one for black holes.
    pub fn plane(&self) -> &str {
        if self.name == "source_rtbh" { "rtbh" } else { &self.name }
    }

    /// Returns a rung of this name and kind with what is sensible for it.
    pub fn sensible(name: &str, kind: Kind) -> Self {
        const MINUTE: u64 = 60_000;
        let when = |utilisation| When {
            utilisation: Some(utilisation),
            lost_pps: Some(50.0),
            softirq: Some(0.9),
            residual: None,
        };
        let base = Self {
            name: name.to_owned(),
            kind,
            when: when(0.7),
            approve: Approve::Ask,
            activation_ms: 1_000,
            hold_ms: MINUTE,
            longest_hold_ms: 30 * MINUTE,
            most: 16,
            per_day: 0,
            probe: Probe::Withdraw,
        };
        match kind {
            // Each exemption may take many parts.
            Kind::Filter => Self { approve: Approve::Auto, probe: Probe::Trickle, most: 64, ..base },
            Kind::SourceBlackHole => Self { most: 8, ..base },
            // A provider's routes take minutes each way, and it may charge for each time.
            Kind::Scrub => Self {
                when: when(0.8),
                activation_ms: 5 * MINUTE,
                hold_ms: 30 * MINUTE,
                longest_hold_ms: 6 * 60 * MINUTE,
                most: 4,
                ..base
            },
            // The victim is gone while it lasts: only when nothing else is left, and never for long unlooked at.
            Kind::BlackHole => Self {
                when: When { utilisation: Some(0.95), lost_pps: None, softirq: None, residual: None },
                longest_hold_ms: 10 * MINUTE,
                most: 2,
                ..base
            },
        }
    }
}

/// The whole ladder, lowest rung first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// Whether it is used.
    pub mode: LadderMode,
    /// The rungs, in the order in which they are tried.
    pub rungs: Vec<Rung>,
    /// How long a black hole waits for the answer to a rung below it that asks for approval, milliseconds.
    pub patience_ms: u64,
    /// What a trickle lets through, over all filters, bits a second.
    pub trickle_bps: u64,
}

impl Policy {
    /// Returns what is done where the configuration has no rungs: FlowSpec by itself; source black holes, providers
    /// and, last, black holes when an operator says so. Only planes that there are, by name: what each can do.
    pub fn built_in(mode: LadderMode, planes: &[(String, Kind)]) -> Self {
        let has = |name: &str| planes.iter().any(|(plane, _)| plane == name);
        let mut rungs: Vec<Rung> = Vec::new();
        rungs.extend(has("flowspec").then(|| Rung::sensible("flowspec", Kind::Filter)));
        rungs.extend(has("rtbh").then(|| Rung::sensible("source_rtbh", Kind::SourceBlackHole)));
        for (name, kind) in planes.iter().filter(|(name, _)| !matches!(name.as_str(), "flowspec" | "rtbh")) {
            // What somebody may charge for is asked for.
            rungs.push(Rung { approve: Approve::Ask, ..Rung::sensible(name, *kind) });
        }
        rungs.extend(has("rtbh").then(|| Rung::sensible("rtbh", Kind::BlackHole)));
        Self { mode, rungs, ..Self::bare() }
    }

    /// Returns a policy without rungs.
    pub fn bare() -> Self {
        Self { mode: LadderMode::Off, rungs: Vec::new(), patience_ms: 120_000, trickle_bps: 1_000_000 }
    }
}

/// An address or prefix that is never black-holed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The prefix.
    pub net: IpNet,
    /// What it carries, for people: `an SSH session`.
    pub why: String,
}

/// The policy, and what of the network it may be about.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Upstream {
    /// The policy.
    pub policy: Policy,
    /// The operator's own space: nothing else is named upstream. Empty: this host's own addresses.
    pub space: Vec<IpNet>,
    /// What is never black-holed.
    pub kept: Vec<Kept>,
    /// Sources that the operator's allow list names: nothing upstream drops what they send.
    pub allowed: Vec<IpNet>,
}
