//! Routes that may be announced: what was asked for, until it was seen that it is gone.

use std::collections::BTreeMap;

use tracing::warn;

use crate::{
    act,
    config::{BgpDaemon, Config},
    decide::ladder::Step,
    record::routes::{self, Asked, ORPHANS, OWN},
};

/// Routes that are remembered at most: a daemon that is away for months says nothing of any of them.
const MOST: usize = 1024;

/// All that this configuration's planes look after.
#[derive(Debug, Default)]
pub(in crate::agent) struct Routes {
    /// Through whom they go; `None`: through nobody.
    by: Option<String>,
    asked: Vec<Asked>,
}

/// What [`Routes::open`] finds.
pub(in crate::agent) struct Found {
    pub routes: Routes,
    /// Those of an earlier configuration, which nobody looks after.
    pub lost: Vec<Asked>,
    /// What the operator should know of files that cannot be used.
    pub told: Vec<String>,
}

/// Returns whether what is asked of a plane is a route.
fn is_route(step: &Step) -> bool {
    matches!(step.plane.as_str(), "flowspec" | "rtbh")
}

/// Says through whom routes go, and by what they are known as ours; `None` where no daemon is configured.
fn speaker(config: &Config) -> Option<String> {
    let bgp = config.bgp.as_ref()?;
    let daemon = match &bgp.daemon {
        BgpDaemon::GoBgp(address) => format!("gobgp at {address}"),
        BgpDaemon::ExaBgp(pipes) => format!("exabgp at {}", pipes.display()),
    };
    Some(format!("{daemon}, marked {}", act::bgp::marker(bgp)))
}

impl Routes {
    /// Reads what an earlier life left; `live` is what the ladder had upstream. What nobody looks after is kept in a
    /// file of its own, until an operator removes that, or the configuration is as it was.
    pub(in crate::agent) fn open(config: &Config, live: &[Step]) -> Found {
        let state = &config.paths.state;
        let (all, told) = routes::load(state);
        let by = speaker(config);
        let (asked, lost): (Vec<Asked>, Vec<Asked>) = all.into_iter().partition(|asked| Some(&asked.by) == by.as_ref());
        let mut routes = Self { by, asked };
        let known = |step: &Step| lost.iter().any(|lost| lost.step == *step);
        let live: Vec<Step> = live.iter().filter(|step| !known(step)).cloned().collect();
        routes.ask(&live);
        for (file, routes) in [(ORPHANS, &lost), (OWN, &routes.asked)] {
            if let Err(error) = routes::save(state, file, routes) {
                warn!(%error, file, "What routes may be announced cannot be written down.");
            }
        }
        Found { routes, lost, told }
    }

    /// Notes that these are asked for now.
    pub(super) fn ask(&mut self, steps: &[Step]) {
        let Some(by) = &self.by else { return };
        for step in steps.iter().filter(|step| is_route(step)) {
            if !self.asked.iter().any(|asked| asked.step.plane == step.plane && asked.step.what == step.what) {
                self.asked.push(Asked { by: by.clone(), step: step.clone() });
            }
        }
        // The oldest go.
        self.asked.drain(..self.asked.len().saturating_sub(MOST));
    }

    /// Notes that nothing of a plane is there but what is wanted.
    pub(super) fn only(&mut self, plane: &str, wanted: &[Step]) {
        self.asked.retain(|asked| asked.step.plane != plane || wanted.iter().any(|step| step.what == asked.step.what));
    }

    /// Returns what may be there.
    pub(super) fn steps(&self) -> impl Iterator<Item = &Step> {
        self.asked.iter().map(|asked| &asked.step)
    }

    /// Returns what is written down; `None` where routes go through nobody.
    pub(super) fn written(&self) -> Option<Vec<Asked>> {
        self.by.is_some().then(|| self.asked.clone())
    }
}

/// Says which routes of an earlier configuration may be announced.
pub(super) fn told(config: &Config, lost: &[Asked]) -> Vec<String> {
    let now = match speaker(config) {
        Some(now) => format!("that is {now} now"),
        None => "there is no [bgp] now".to_owned(),
    };
    let mut by: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for Asked { by: who, step } in lost {
        by.entry(who).or_default().push(step.what.to_string());
    }
    let line = |(who, routes): (&str, Vec<String>)| {
        format!(
            "routes were announced through {who}; {now}, so they are not known as ours: put bgp.daemon, bgp.asn or bgp.marker \
             back, or withdraw them by hand and remove {ORPHANS} from the state directory: {}",
            super::shortened(&routes)
        )
    };
    by.into_iter().map(line).collect()
}
