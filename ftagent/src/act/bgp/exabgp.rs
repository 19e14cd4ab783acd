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

use crate::config::LargeCommunity;

/// How long after a listing that lacks something it is read again.
const AGAIN: Duration = Duration::from_millis(100);

/// Speaks to ExaBGP.
pub struct ExaBgp {
    link: Link,
    /// What our routes bear.
    marker: LargeCommunity,
    /// What was there when last looked, in the same life.
    before: BTreeSet<Nlri>,
}

impl ExaBgp {
    /// Opens nothing yet. `pipes` is the directory of the pipes; our routes bear the marker.
    pub const fn new(pipes: PathBuf, marker: LargeCommunity) -> Self {
        Self { link: Link::new(pipes), marker, before: BTreeSet::new() }
    }

    /// Gives a command that is answered by nothing but that it was done.
    fn order(&mut self, command: &str) -> Result<(), String> {
        match self.link.ask(command)?.first() {
            // It may have been done, and it may not: the next listing tells.
            Some(line) => Err(self.link.astray(command.split(" {").next().unwrap_or(command), Some(line))),
            None => Ok(()),
        }
    }

    /// Reads what neighbours there are.
    fn neighbours(&mut self) -> Result<BTreeMap<String, Neighbour>, String> {
        let command = "show neighbor extensive";
        let mut lines = self.link.ask(command)?;
        if lines.is_empty() {
            // Another may have got the answer. Asked again, when nothing more comes of that, it has no neighbours.
            self.link.doubt();
            lines = self.link.ask(command)?;
        }
        let neighbours = text::neighbours(&lines);
        let whole =
            neighbours.is_empty() == lines.is_empty() && !lines.iter().any(|line| line.starts_with(text::LISTED));
        if whole { Ok(neighbours) } else { Err(self.link.astray(command, lines.first().map(String::as_str))) }
    }

    /// Reads what is announced, to all neighbours or to some.
    fn routes(&mut self, kind: Kind, neighbours: &BTreeMap<String, Neighbour>) -> Result<Vec<Seen>, String> {
        let command = match kind {
            Kind::FlowSpec => "show adj-rib out flow extensive",
            // Its word `inet` lists nothing at all.
            Kind::BlackHole => "show adj-rib out extensive",
        };
        let lines = self.link.ask(command)?;
        let listed = text::listing(&lines, self.marker).map_err(|line| self.link.astray(command, Some(line)))?;
        let mut found: BTreeMap<Nlri, BTreeMap<String, Seen>> = BTreeMap::new();
        for (neighbour, seen) in listed {
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
        let neighbours = self.neighbours()?;
        if self.link.life() != life {
            self.before.clear();
        }
        let mut routes = self.routes(kind, &neighbours)?;
        // Whoever else uses the pipes may have got a part of the answer: what seems to be gone is looked for twice.
        let there: BTreeSet<&Nlri> = routes.iter().map(|seen| &seen.nlri).collect();
        if self.before.iter().any(|nlri| of(kind, nlri) && !there.contains(nlri)) {
            thread::sleep(AGAIN);
            self.link.doubt();
            routes = self.routes(kind, &neighbours)?;
        }
        self.before.retain(|nlri| !of(kind, nlri));
        self.before.extend(routes.iter().map(|seen| seen.nlri.clone()));
        Ok(Listing { routes, life: self.link.life(), unheard: unheard(kind, &neighbours) })
    }

    fn announce(&mut self, route: &Route) -> Result<(), String> {
        self.order(&format!("announce {}", text::route(route)))
    }

    fn withdraw(&mut self, route: &Seen) -> Result<(), String> {
        self.before.remove(&route.nlri);
        self.order(&format!("withdraw {}", text::withdrawn(&route.nlri)))
    }

    fn hidden(&self) -> &'static str {
        "exabgp took it and does not list it: has a neighbour its family, and is `adj-rib-out` left at true?"
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        io::{BufRead as _, BufReader, Write as _},
    };

    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::*;

    const NEIGHBOURS: &str = "Neighbor 127.0.0.2\n   state                    ESTABLISHED\n   ipv4 unicast:                \
                              enabled   enabled   disabled";
    const ROUTE: &str = "neighbor 127.0.0.2 local-ip 127.0.0.1 local-as 64500 peer-as 64501 router-id 127.0.0.1 \
                         family-allowed in-open ipv4 unicast 203.0.113.9/32 next-hop 192.0.2.1 large-community 64500:1:2";

    /// Answers as ExaBGP does, each command with the next of these; `version` as it should.
    fn daemon(pipes: PathBuf, answers: Vec<&'static str>) {
        let mut answers = answers.into_iter();
        thread::spawn(move || {
            let commands = BufReader::new(fs::File::open(pipes.join("exabgp.in")).unwrap());
            for command in commands.lines() {
                let answer = match command.unwrap().as_str() {
                    "version" => "exabgp 4.2.21",
                    _ => answers.next().unwrap_or_default(),
                };
                let mut out = fs::OpenOptions::new().write(true).open(pipes.join("exabgp.out")).unwrap();
                let end = if answer.is_empty() { "" } else { "\n" };
                out.write_all(format!("{answer}{end}done\n").as_bytes()).unwrap();
            }
        });
    }

    fn pipes() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in ["exabgp.in", "exabgp.out"] {
            mkfifo(&dir.path().join(name), Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        }
        dir
    }

    /// Lists for the first time.
    fn first(exabgp: &mut ExaBgp) -> Listing {
        loop {
            match exabgp.list(Kind::BlackHole) {
                // It has still to open its end.
                Err(why) if why.contains("nobody reads") => thread::sleep(Duration::from_millis(1)),
                other => return other.unwrap(),
            }
        }
    }

    #[test]
    fn anothers_use_of_the_pipes_is_no_route_that_is_gone() {
        let dir = pipes();
        let answers = vec![
            NEIGHBOURS,
            ROUTE,
            // The answer to the neighbours went to another, and what is read is one to another's question.
            ROUTE,
            NEIGHBOURS,
            // Half of a line.
            ROUTE.split_at(60).1,
            // An announcement that is answered by a listing.
            ROUTE,
            NEIGHBOURS,
            // The whole listing went to another; read again, it is there.
            "",
            ROUTE,
            // So did the neighbours.
            "",
            NEIGHBOURS,
            ROUTE,
        ];
        daemon(dir.path().to_owned(), answers);
        let mut exabgp = ExaBgp::new(dir.path().to_owned(), "64500:1:2".parse().unwrap());
        let routes = |listing: Listing| listing.routes.len();
        let first = first(&mut exabgp);
        let life = first.life;
        assert_eq!(routes(first), 1);
        let told = |result: Result<Listing, String>| result.unwrap_err().contains("does another program use the pipes");
        assert!(told(exabgp.list(Kind::BlackHole)), "neighbours");
        assert!(told(exabgp.list(Kind::BlackHole)), "half a line");
        let order = exabgp.order("announce route 203.0.113.9/32 next-hop 192.0.2.1");
        assert!(order.is_err_and(|why| why.contains("`announce route")), "answered by a listing");
        for _ in ["its routes", "its neighbours"] {
            let last = exabgp.list(Kind::BlackHole).unwrap();
            assert_eq!((last.life, last.routes.len(), last.unheard), (life, 1, None));
        }
    }

    #[test]
    fn one_without_neighbours_is_told_to_name_some() {
        let dir = pipes();
        // Neither neighbours, asked twice, nor routes.
        daemon(dir.path().to_owned(), vec!["", "", ""]);
        let mut exabgp = ExaBgp::new(dir.path().to_owned(), "64500:1:2".parse().unwrap());
        let listing = first(&mut exabgp);
        assert_eq!(listing.routes.len(), 0);
        assert!(listing.unheard.is_some_and(|why| why.contains("name it in the neighbour's `family`")));
    }
}
