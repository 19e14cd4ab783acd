//! ExaBGP 4.2, by the pipes of its command line: `exabgp.in` takes commands, `exabgp.out` answers.
//!
//! What has to be announced again is announced to all neighbours, and counts as there when every neighbour that
//! has its family has it: a neighbour that was configured later gets what the others have.

mod link;
mod text;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    thread,
    time::Duration,
};

use super::{
    Listing, Speaker,
    route::{Kind, Nlri, Route, Seen},
};
use link::Link;
use text::Neighbour;

/// How long after a listing that lacks something it is read again.
const AGAIN: Duration = Duration::from_millis(100);

/// Speaks to ExaBGP.
pub struct ExaBgp {
    link: Link,
    /// What was there when last looked, in the same life.
    before: BTreeSet<Nlri>,
}

impl ExaBgp {
    /// Opens nothing yet. `pipes` is the directory of the pipes.
    pub const fn new(pipes: PathBuf) -> Self {
        Self { link: Link::new(pipes), before: BTreeSet::new() }
    }

    /// Reads what is announced, to all neighbours or to some.
    fn routes(&mut self, kind: Kind, neighbours: &BTreeMap<String, Neighbour>) -> Result<Vec<Seen>, String> {
        let lines = self.link.ask(match kind {
            Kind::FlowSpec => "show adj-rib out flow extensive",
            // Its word `inet` lists nothing at all.
            Kind::BlackHole => "show adj-rib out extensive",
        })?;
        let mut found: BTreeMap<Nlri, BTreeMap<String, Seen>> = BTreeMap::new();
        for (neighbour, seen) in lines.iter().filter_map(|line| text::line(line)) {
            if !of(kind, &seen.nlri) {
                continue;
            }
            found.entry(seen.nlri.clone()).or_default().insert(neighbour, seen);
        }
        let merged = |(nlri, mut by): (Nlri, BTreeMap<String, Seen>)| {
            let family = text::family(&nlri);
            let offered = neighbours.iter().filter(|(_, neighbour)| neighbour.families.contains(family));
            let everywhere = offered.map(|(name, _)| name).all(|name| by.contains_key(name));
            let (_, mut first) = by.pop_first()?;
            first.whole = everywhere && by.values().all(|other| *other == first);
            Some(first)
        };
        Ok(found.into_iter().filter_map(merged).collect())
    }
}

/// Returns whether a route is of a kind.
fn of(kind: Kind, nlri: &Nlri) -> bool {
    matches!(nlri, Nlri::Flow(_)) == (kind == Kind::FlowSpec)
}

/// Returns why nobody hears what is announced.
fn unheard(kind: Kind, neighbours: &BTreeMap<String, Neighbour>) -> Option<String> {
    let safi = match kind {
        Kind::FlowSpec => "flow",
        Kind::BlackHole => "unicast",
    };
    let offered = |neighbour: &&Neighbour| neighbour.families.iter().any(|family| family.ends_with(safi));
    let able: Vec<&Neighbour> = neighbours.values().filter(offered).collect();
    if able.is_empty() {
        return Some(format!(
            "no neighbour of exabgp has the family `ipv4 {safi}` or `ipv6 {safi}`, so nobody hears what is announced: \
             name it in the neighbour's `family`"
        ));
    }
    let up = able.iter().any(|neighbour| neighbour.up);
    (!up).then(|| {
        let count = able.len();
        format!("none of exabgp's {count} sessions is up, so nobody hears what is announced: `exabgpcli show neighbor summary`")
    })
}

impl Speaker for ExaBgp {
    fn list(&mut self, kind: Kind) -> Result<Listing, String> {
        let life = self.link.life();
        let neighbours = text::neighbours(&self.link.ask("show neighbor extensive")?);
        if self.link.life() != life {
            self.before.clear();
        }
        let mut routes = self.routes(kind, &neighbours)?;
        // Whoever else uses the pipes may have got a part of the answer: what seems to be gone is looked for twice.
        let there: BTreeSet<&Nlri> = routes.iter().map(|seen| &seen.nlri).collect();
        if self.before.iter().any(|nlri| of(kind, nlri) && !there.contains(nlri)) {
            thread::sleep(AGAIN);
            routes = self.routes(kind, &neighbours)?;
        }
        self.before.retain(|nlri| !of(kind, nlri));
        self.before.extend(routes.iter().map(|seen| seen.nlri.clone()));
        Ok(Listing { routes, life: self.link.life(), unheard: unheard(kind, &neighbours) })
    }

    fn announce(&mut self, route: &Route) -> Result<(), String> {
        self.link.ask(&format!("announce {}", text::route(route))).map(drop)
    }

    fn withdraw(&mut self, route: &Seen) -> Result<(), String> {
        self.before.remove(&route.nlri);
        self.link.ask(&format!("withdraw {}", text::withdrawn(&route.nlri))).map(drop)
    }

    fn hidden(&self) -> &'static str {
        "exabgp took it and does not list it: has a neighbour its family, and is `adj-rib-out` left at true?"
    }
}
