use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use super::*;
use crate::{
    act::upstream::{Act, Witness},
    config::{Community, Config},
    decide::ladder::{Report, Standing, Step, What},
};

/// A daemon that does as it is told, or not.
#[derive(Default)]
struct Fake {
    routes: Vec<Seen>,
    life: u64,
    away: bool,
    refuses: bool,
    swallows: bool,
    unheard: Option<String>,
    announced: usize,
}

impl Speaker for Arc<Mutex<Fake>> {
    fn list(&mut self, _: Kind) -> Result<Listing, String> {
        let fake = self.lock().unwrap();
        if fake.away {
            return Err("it does not answer".to_owned());
        }
        Ok(Listing { routes: fake.routes.clone(), life: fake.life, unheard: fake.unheard.clone() })
    }

    fn announce(&mut self, route: &Route) -> Result<(), String> {
        let mut fake = self.lock().unwrap();
        fake.announced += 1;
        if fake.refuses {
            return Err("it refuses".to_owned());
        }
        if !fake.swallows {
            fake.routes.retain(|seen| seen.nlri != route.nlri);
            fake.routes.push(Seen {
                nlri: route.nlri.clone(),
                limit: route.limit,
                next_hop: route.next_hop,
                communities: route.communities.clone(),
                large: [route.marker].into(),
                whole: true,
            });
        }
        Ok(())
    }

    fn withdraw(&mut self, route: &Seen) -> Result<(), String> {
        self.lock().unwrap().routes.retain(|seen| seen.nlri != route.nlri);
        Ok(())
    }
}

/// Writes down what is done, or forbids it.
#[derive(Default)]
struct Diary(Mutex<Vec<String>>, bool);

impl Witness for Diary {
    fn before(&self, act: &Act) -> Result<(), String> {
        assert_eq!(act.verb, "announce", "only this may wait");
        if self.1 {
            return Err("the disk is full".to_owned());
        }
        self.before_back(act);
        Ok(())
    }

    fn before_back(&self, act: &Act) {
        self.0.lock().unwrap().push(format!("{} {} [{}]", act.verb, act.subject, act.incident));
    }

    fn after(&self, _: &Act, result: Result<(), &str>) {
        self.0.lock().unwrap().push(format!("{result:?}"));
    }
}

fn config(more: &str) -> Bgp {
    let text = format!(
        "[bgp]\ndaemon = \"gobgp\"\nasn = 64500\nmarker = \"64500:1:2\"\nown_prefixes = [\"198.51.100.0/24\", \
         \"2001:db8::/32\"]\nprotect = [\"198.51.100.1\", \"203.0.113.53\"]\n{more}"
    );
    Config::parse(&text, "t.toml").unwrap().bgp.unwrap()
}

fn what(text: &str) -> What {
    let (word, rest) = text.split_once(' ').unwrap();
    match word {
        "hole" => What::BlackHole { victim: rest.parse().unwrap() },
        "source" => What::SourceBlackHole { source: rest.parse().unwrap() },
        "divert" => What::Divert { prefix: rest.parse().unwrap() },
        _ => {
            let (matches, action) = text.split_once(" => ").unwrap();
            What::Filter { matches: Box::new(matches.parse().unwrap()), action: action.parse().unwrap() }
        }
    }
}

fn steps(texts: &[(u32, &str)]) -> Vec<Step> {
    let step = |(id, text): &(u32, &str)| Step {
        id: *id,
        plane: "flowspec".to_owned(),
        what: what(text),
        incident: format!("i-{id}"),
        reason: "a test".to_owned(),
    };
    texts.iter().map(step).collect()
}

/// A plane over a daemon that is not one.
struct Stage {
    daemon: Arc<Mutex<Fake>>,
    plane: Announcer,
    diary: Diary,
}

impl Stage {
    fn new(more: &str) -> Self {
        let daemon = Arc::new(Mutex::new(Fake::default()));
        let speaker: Shared = Arc::new(Mutex::new(Arc::clone(&daemon)));
        Self { plane: Announcer::new(Kind::FlowSpec, config(more), speaker), daemon, diary: Diary::default() }
    }

    /// Looks once; returns the steps' standings, and what is announced afterwards.
    fn look(&mut self, wanted: &[(u32, &str)]) -> (Report, Vec<String>) {
        let report = self.plane.reconcile(&steps(wanted), &self.diary);
        let there = self.daemon.lock().unwrap().routes.iter().map(|seen| seen.nlri.to_string()).collect();
        (report, there)
    }

    fn standings(&mut self, wanted: &[(u32, &str)]) -> Vec<Standing> {
        self.look(wanted).0.steps.into_iter().map(|(_, standing)| standing).collect()
    }

    fn daemon(&self) -> std::sync::MutexGuard<'_, Fake> {
        self.daemon.lock().unwrap()
    }
}

const BOTH: [Standing; 2] = [Standing::Present, Standing::Present];
const ONE: (u32, &str) = (1, "dst 198.51.100.7/32 udp sport 123 => drop");
const TWO: (u32, &str) = (2, "dst 2001:db8::7/128 tcp flags syn/syn+ack => rate-limit 8 Mbps");

#[test]
fn what_is_wanted_is_announced_read_back_and_withdrawn() {
    let mut stage = Stage::new("");
    let (report, there) = stage.look(&[ONE, TWO]);
    assert_eq!(report.steps, [(1, Standing::Present), (2, Standing::Present)]);
    assert_eq!(
        there,
        ["flow4 dst 198.51.100.7/32 proto =17 sport =123", "flow6 dst 2001:db8::7/128 proto =6 flags =0x02&!0x10"]
    );
    assert_eq!(stage.daemon().routes[1].limit, Some(crate::rule::flowspec::Limit::Bytes(1_000_000)));
    // What is there is not announced again.
    stage.look(&[ONE, TWO]);
    assert_eq!(stage.daemon().announced, 2);
    let (report, there) = stage.look(&[TWO]);
    assert_eq!((report.steps, report.leaving, there.len()), (vec![(2, Standing::Present)], 0, 1));
    let diary = stage.diary.0.lock().unwrap().clone();
    let flow = "flow4 dst 198.51.100.7/32 proto =17 sport =123";
    assert_eq!((diary[0].as_str(), diary[1].as_str()), (format!("announce {flow} [i-1]").as_str(), "Ok(())"));
    assert_eq!((diary[4].as_str(), diary.len()), (format!("withdraw {flow} [i-1]").as_str(), 6));
}

#[test]
fn what_is_gone_was_lost_or_taken_back() {
    let mut stage = Stage::new("");
    stage.look(&[ONE, TWO]);
    // Another life of the daemon lacks everything.
    stage.daemon().routes.clear();
    stage.daemon().life = 7;
    assert_eq!(stage.standings(&[ONE, TWO]), [Standing::Present, Standing::Present]);
    // In the same life, somebody took it back; it stays away, and the other is not touched.
    stage.daemon().routes.remove(0);
    for _ in 0..3 {
        assert_eq!(stage.standings(&[ONE, TWO]), [Standing::TakenBack, Standing::Present]);
    }
    // Not even another life brings it back; asking anew does.
    stage.daemon().life = 8;
    assert_eq!(stage.standings(&[ONE, TWO]), [Standing::TakenBack, Standing::Present]);
    assert_eq!(stage.standings(&[(3, ONE.1), TWO]), [Standing::Present, Standing::Present]);
}

#[test]
fn what_nobody_hears_is_announced_and_not_there_yet() {
    let mut stage = Stage::new("");
    stage.look(&[ONE, TWO]);
    // Another life of the daemon has routes at once, and sessions later.
    stage.daemon().routes.clear();
    (stage.daemon().life, stage.daemon().unheard) = (7, Some("no session is up".to_owned()));
    for _ in 0..2 {
        let (report, there) = stage.look(&[ONE, TWO]);
        let failed = Standing::Failed("no session is up".to_owned());
        assert_eq!(report.steps, [(1, failed.clone()), (2, failed)]);
        assert_eq!((report.trouble.as_deref(), there.len()), (Some("no session is up"), 2));
    }
    assert_eq!(stage.daemon().announced, 4, "announced once in each life");
    stage.daemon().unheard = None;
    assert_eq!(stage.standings(&[ONE, TWO]), BOTH);
    // What somebody takes back meanwhile stays away.
    stage.daemon().unheard = Some("no session is up".to_owned());
    stage.daemon().routes.remove(0);
    assert_eq!(stage.standings(&[ONE, TWO])[0], Standing::TakenBack);
}

#[test]
fn a_daemon_that_is_away_or_refuses_is_said_and_not_pestered() {
    let mut stage = Stage::new("");
    stage.daemon().away = true;
    let (report, _) = stage.look(&[ONE]);
    assert_eq!(report.trouble.as_deref(), Some("it does not answer"));
    assert_eq!(report.steps, [(1, Standing::Failed("it does not answer".to_owned()))]);
    stage.daemon().away = false;
    stage.daemon().refuses = true;
    for _ in 0..3 {
        assert_eq!(stage.standings(&[ONE]), [Standing::Failed("it refuses".to_owned())]);
    }
    assert_eq!(stage.daemon().announced, 1, "asked again without a pause");
    // Another life may take it: it is asked at once.
    stage.daemon().refuses = false;
    stage.daemon().life = 1;
    assert_eq!(stage.standings(&[ONE]), [Standing::Present]);
    // A daemon that says yes and does nothing.
    stage.daemon().swallows = true;
    let standings = stage.standings(&[ONE, TWO]);
    assert!(matches!(&standings[1], Standing::Failed(why) if why.contains("does not list it")), "{standings:?}");
    // What some neighbour lacks is announced again.
    stage.daemon().swallows = false;
    stage.daemon().routes[0].whole = false;
    assert_eq!(stage.standings(&[ONE]), [Standing::Present]);
    assert!(stage.daemon().routes[0].whole);
}

#[test]
fn what_cannot_be_written_down_is_not_done() {
    let mut stage = Stage::new("");
    stage.diary.1 = true;
    let (report, there) = stage.look(&[ONE]);
    assert_eq!(report.steps, [(1, Standing::Failed("the disk is full".to_owned()))]);
    assert!(there.is_empty());
}

#[test]
fn routes_are_counted_shared_and_never_fought_over() {
    let mut stage = Stage::new("max_announcements = 2\n");
    // Two steps of one route, one that contradicts them, one of its own, and one too many.
    let third = "dst 198.51.100.8/32 udp => drop";
    let limited = "dst 198.51.100.7/32 udp sport 123 => rate-limit 8 Mbps";
    let wanted = [(5, ONE.1), ONE, (6, limited), TWO, (9, third)];
    let standings = stage.standings(&wanted);
    let failed = |at: usize, word: &str| matches!(&standings[at], Standing::Failed(why) if why.contains(word));
    assert_eq!([&standings[0], &standings[1], &standings[3]], [&Standing::Present; 3]);
    assert!(failed(2, "something else of the same packets") && failed(4, "bgp.max_announcements"), "{standings:?}");
    // One of the two goes: the route stays. Both go: there is room.
    assert_eq!(stage.standings(&[(5, ONE.1), TWO]), BOTH);
    assert_eq!(stage.standings(&[TWO, (9, third)]), BOTH);
    assert_eq!(stage.daemon().routes.len(), 2);
    // Routes without the marker are others'.
    let others: BTreeSet<LargeCommunity> = ["64500:1:3".parse().unwrap()].into();
    stage.daemon().routes.iter_mut().for_each(|seen| seen.large.clone_from(&others));
    let mut again = Stage::new("");
    again.daemon().routes.clone_from(&stage.daemon().routes);
    let (report, there) = again.look(&[(9, third)]);
    assert!(matches!(&report.steps[0].1, Standing::Failed(why) if why.contains("somebody else")), "{report:?}");
    assert_eq!((there.len(), report.leaving), (2, 0));
}

#[test]
fn nothing_is_announced_that_must_not_be() {
    let sources = "source_blackhole = true\n";
    // What is asked, of whom, with which settings, and a part of the refusal; none: it is announced.
    let cases = [
        (Kind::FlowSpec, "dst 198.51.100.7/32 udp => drop", "", ""),
        (Kind::FlowSpec, "dst 198.51.100.0/25 udp src 192.0.2.0/24 => drop", "", "bgp.protect"),
        (Kind::FlowSpec, "dst 198.51.100.1/32 udp => drop", "", "bgp.protect"),
        (Kind::FlowSpec, "dst 198.51.100.7/32 udp src 203.0.113.0/24 => drop", "", "bgp.protect"),
        (Kind::FlowSpec, "dst 198.51.101.7/32 udp => drop", "", "bgp.own_prefixes"),
        (Kind::FlowSpec, "dst 198.51.0.0/16 udp => drop", "", "bgp.own_prefixes"),
        (Kind::FlowSpec, "dst 2001:db9::7/128 udp => drop", "", "bgp.own_prefixes"),
        (Kind::FlowSpec, "src 192.0.2.1 udp => drop", "", "no destination"),
        (Kind::FlowSpec, "dst 198.51.100.7/32 => drop", "", "ask rtbh"),
        // Nothing is left of it that routers could tell apart.
        (Kind::FlowSpec, "dst 198.51.100.7/32 ttl 64 => drop", "", "ttl 64 cannot be said"),
        (Kind::FlowSpec, "dst 198.51.100.7/32 => rate-limit 80 Mbps", "", ""),
        (Kind::FlowSpec, "dst 198.51.100.7/32 udp => rate-limit 9 kpps", "", "bgp.packet_rates"),
        (Kind::FlowSpec, "dst 198.51.100.7/32 udp => rate-limit 9 kpps", "packet_rates = true\n", ""),
        (Kind::FlowSpec, "dst 198.51.100.7/32 udp => count", "", "only drop"),
        (Kind::FlowSpec, "hole 198.51.100.7/32", "", "for rtbh"),
        (Kind::BlackHole, "dst 198.51.100.7/32 udp => drop", "", "for flowspec"),
        (Kind::BlackHole, "divert 198.51.100.0/24", "", "black-holes"),
        (Kind::BlackHole, "hole 198.51.100.7/32", "", ""),
        (Kind::BlackHole, "hole 198.51.100.1/32", "", "bgp.protect"),
        (Kind::BlackHole, "hole 203.0.113.7/32", "", "bgp.own_prefixes"),
        (Kind::BlackHole, "hole 198.51.100.8/29", "", "more than a host"),
        (Kind::BlackHole, "hole 198.51.100.9/29", "blackhole_prefixes = true\n", "host bits"),
        (Kind::BlackHole, "hole 198.51.100.8/29", "blackhole_prefixes = true\n", ""),
        (Kind::BlackHole, "hole 198.51.100.0/29", "blackhole_prefixes = true\n", "bgp.protect"),
        (Kind::BlackHole, "hole 198.51.100.9/32", "next_hop4 = \"198.51.100.9\"\n", "next hop"),
        (Kind::BlackHole, "source 192.0.2.7/32", "", "bgp.source_blackhole"),
        (Kind::BlackHole, "source 192.0.2.7/32", sources, ""),
        (Kind::BlackHole, "source 203.0.113.53/32", sources, "bgp.protect"),
        (Kind::BlackHole, "source 198.51.100.7/32", sources, "your own space"),
        (Kind::BlackHole, "source 127.0.0.1/32", sources, "no source"),
        (Kind::BlackHole, "source fe80::1/128", sources, "no source"),
        (Kind::BlackHole, "source 224.0.0.1/32", sources, "no source"),
        (Kind::BlackHole, "source 240.0.0.1/32", sources, "no source"),
    ];
    for (kind, text, more, word) in cases {
        let config = config(more);
        let route = check::route(kind, &what(text), &config, marker(&config));
        match &route {
            Ok(route) if kind == Kind::BlackHole => {
                let wanted: BTreeSet<Community> = [Community::BLACKHOLE, Community::NO_EXPORT].into();
                assert!(word.is_empty() && route.communities == wanted, "{text}: {route:?}");
            }
            Ok(_) => assert!(word.is_empty(), "{text}: {route:?}"),
            Err(why) => assert!(!word.is_empty() && why.contains(word), "{text}: {why}"),
        }
    }
}

#[test]
fn a_black_hole_never_leaves_the_neighbours_as() {
    let config = config("communities = [\"64500:666\"]\n");
    let route = check::route(Kind::BlackHole, &what("hole 198.51.100.7/32"), &config, marker(&config)).unwrap();
    assert_eq!(route.communities, ["64500:666".parse().unwrap(), Community::NO_EXPORT].into());
}

#[test]
fn what_is_taken_back_waits_neither_for_the_audit_log_nor_for_what_failed_before() {
    let mut stage = Stage::new("");
    assert_eq!(stage.standings(&[ONE]), [Standing::Present]);
    stage.diary.1 = true;
    let (report, there) = stage.look(&[TWO]);
    assert_eq!(report.steps, [(2, Standing::Failed("the disk is full".to_owned()))]);
    assert_eq!((report.leaving, there.len()), (0, 0), "the withdrawal is not held up");
    // It was announced again and that failed: the withdrawal of the same route is another thing.
    let mut stage = Stage::new("");
    stage.look(&[ONE]);
    stage.daemon().routes[0].whole = false;
    stage.daemon().refuses = true;
    assert_eq!(stage.standings(&[ONE]), [Standing::Failed("it refuses".to_owned())]);
    assert_eq!(stage.look(&[]).1.len(), 0);
}

#[test]
fn what_is_protected_of_others_is_what_no_filter_drops() {
    let guests: Vec<String> = config("").guests().map(|net| net.to_string()).collect();
    assert_eq!(guests, ["203.0.113.53/32"]);
}
