//! What people see of the ladder.

use serde::{Deserialize, Serialize};

use super::{
    Kind, Ladder, LadderMode, Standing, Uplink,
    engine::{Bar, Stage, State},
};
use crate::decide::Now;

/// A kind of move, for alerts and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Turn {
    /// Waits for an operator's approval.
    Asked,
    /// Climbed: something is asked of a plane.
    Escalated,
    /// What is asked of a plane changed: filters came or went.
    Changed,
    /// A probe began, or ended.
    Probed,
    /// Taken back because it is not needed any more, or may not be there any more.
    CameBack,
    /// A plane failed, refused, or said yes and did nothing.
    Failed,
    /// An operator denied it or took it back.
    Stopped,
}

impl Turn {
    /// Returns the name that people see.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Escalated => "escalated",
            Self::Changed => "changed",
            Self::Probed => "probed",
            Self::CameBack => "came-back",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        }
    }
}

/// A step, and how it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepView {
    /// Its number.
    pub id: u32,
    /// What it is, as text.
    pub what: String,
    /// How its plane found it; absent: the plane has not said anything yet.
    pub standing: Option<Standing>,
}

/// A rung, and how it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RungView {
    /// Its name.
    pub rung: String,
    /// What it does.
    pub kind: Kind,
    /// `idle`, `asking`, `asked`, `present`, `probing`, `watching`, `denied`, `withdrawn`, `taken-back`, `failed`,
    /// `dry-run`.
    pub state: String,
    /// The number that approves, denies or withdraws it; absent: there is nothing to say.
    pub id: Option<u32>,
    /// Why it is so.
    pub why: String,
    /// Since when.
    pub since: Option<Now>,
    /// What is, or would be, asked of the plane.
    pub steps: Vec<StepView>,
    /// Seconds until it is probed whether it is needed.
    pub next_probe_s: Option<u64>,
    /// Announcements in this attack.
    pub announcements: u32,
    /// Probes in this attack that found it still there.
    pub failed_probes: u32,
    /// Times that it was climbed in the last 24 hours without an operator, and how often it may be (0: no cap).
    pub today: u32,
    /// See [`Self::today`].
    pub per_day: u32,
    /// Why the plane does not work as a whole.
    pub trouble: Option<String>,
    /// Announcements of ours that the plane is still taking back, of all its rungs.
    pub leaving: usize,
}

/// The ladder.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct View {
    /// Whether it is used.
    pub mode: LadderMode,
    /// Why nothing is asked of planes although it is on; absent: it may be.
    pub held_back: Option<String>,
    /// The incident that it is, or was last, about.
    pub incident: Option<String>,
    /// The uplink; absent while nothing is known of it.
    pub uplink: Option<Uplink>,
    /// Seconds until the uplink is full at the present growth; absent: there is no attack, it does not grow, or
    /// nothing is known.
    pub full_in_s: Option<u64>,
    /// The rungs, lowest first.
    pub rungs: Vec<RungView>,
    /// Victims' seconds in black holes since the daemon first started.
    pub black_hole_s: u64,
    /// Times that it climbed.
    pub escalations: u64,
    /// Probes, and those that found the attack still there.
    pub probes: u64,
    /// See [`Self::probes`].
    pub failed_probes: u64,
}

impl Ladder {
    /// Returns it as people see it.
    pub fn view(&self) -> View {
        let now_ns = self.now.mono_ns;
        let upstream = &self.upstream;
        let mode = upstream.policy.mode;
        let held_back = (self.dry && mode == LadderMode::On)
            .then(|| "the daemon drops nothing by itself now (`mitigation.mode`), so it asks nobody either".to_owned());
        let full_in = self.full_in_s(now_ns);
        View {
            mode,
            held_back,
            incident: self.climb.as_ref().map(|climb| climb.incident.clone()),
            uplink: self.link.now(now_ns).cloned(),
            full_in_s: full_in.map(|seconds| seconds as u64),
            rungs: self.rung_views(),
            black_hole_s: self.totals.black_hole_ns / 1_000_000_000,
            escalations: self.totals.escalations,
            probes: self.totals.probes,
            failed_probes: self.totals.failed_probes,
        }
    }

    fn rung_views(&self) -> Vec<RungView> {
        let idle = State::default();
        let view = |rung: &super::Rung| {
            let states = self.climb.as_ref().map(|climb| climb.states.as_slice()).unwrap_or_default();
            let state = states.iter().find(|state| state.name == rung.name).unwrap_or(&idle);
            let active = state.stage != Stage::Idle;
            let step = |step: &super::Step| StepView {
                id: step.id,
                what: step.what.to_string(),
                standing: self.standing(step).cloned(),
            };
            let next_probe_s = match state.stage {
                Stage::Up { present_ns: Some(at), .. } => {
                    Some(at.saturating_add(state.hold_ns).saturating_sub(self.now.mono_ns) / 1_000_000_000)
                }
                _ => None,
            };
            RungView {
                rung: rung.name.clone(),
                kind: rung.kind,
                state: state_name(state.stage).to_owned(),
                id: Some(state.id).filter(|id| *id > 0 && active),
                why: state.why.clone(),
                since: Some(state.since).filter(|_| active),
                steps: if active { state.steps.iter().map(step).collect() } else { Vec::new() },
                next_probe_s,
                announcements: state.announcements,
                failed_probes: state.failed_probes,
                today: self.climbed.get(&rung.name).map_or(0, |times| times.len() as u32),
                per_day: rung.per_day,
                trouble: self.trouble(rung).map(str::to_owned),
                leaving: self.leaving(rung),
            }
        };
        self.upstream.policy.rungs.iter().map(view).collect()
    }
}

const fn state_name(stage: Stage) -> &'static str {
    match stage {
        Stage::Idle => "idle",
        Stage::Asking => "asking",
        Stage::Dry => "dry-run",
        Stage::Up { present_ns: None, .. } => "asked",
        Stage::Up { .. } => "present",
        Stage::Trickle { .. } => "probing",
        Stage::Away { .. } => "watching",
        Stage::Barred { bar, .. } => match bar {
            Bar::Denied => "denied",
            Bar::Withdrawn => "withdrawn",
            Bar::TakenBack => "taken-back",
            Bar::Refused | Bar::Useless => "failed",
        },
    }
}
