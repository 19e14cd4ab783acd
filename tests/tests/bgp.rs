//! Flow specifications and black holes through real BGP daemons to real neighbours.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "vendor/draw.rs"]
mod draw;
#[path = "bgp/life.rs"]
mod life;
#[path = "bgp/wire.rs"]
mod wire;
#[path = "bgp/world.rs"]
mod world;

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::{Arc, Mutex},
    time::Duration,
};

use ftagent::{
    act::{
        bgp::open,
        upstream::{Act, Driver, Plane, Witness},
    },
    decide::ladder::{Report, Standing, Step, What},
    rule::{
        Family,
        flowspec::{FlowSpec, Limit},
    },
};
use ftagent_tests::require_root;
use ipnet::IpNet;
use wire::{Key, Table};
use world::{BIRD, DAEMON, GOBGP, Kind, MARKER, World, until, within};

/// Writes down what is done.
#[derive(Default)]
struct Diary(Mutex<Vec<String>>);

impl Witness for Diary {
    fn before(&self, act: &Act) -> Result<(), String> {
        self.0.lock().unwrap().push(format!("{} {}", act.verb, act.subject));
        Ok(())
    }

    fn after(&self, act: &Act, result: Result<(), &str>) {
        self.0.lock().unwrap().push(format!("{} {}: {result:?}", act.verb, act.subject));
    }
}

fn step(id: u32, plane: &str, what: What) -> Step {
    Step { id, plane: plane.to_owned(), what, incident: "i-1".to_owned(), reason: "a test".to_owned() }
}

fn filter(id: u32, matches: &str, action: &str) -> Step {
    let matches = Box::new(matches.parse().unwrap());
    step(id, "flowspec", What::Filter { matches, action: action.parse().unwrap() })
}

fn victim(id: u32, net: &str) -> Step {
    step(id, "rtbh", What::BlackHole { victim: net.parse().unwrap() })
}

/// A plane, and what it does.
struct Running {
    plane: Plane,
    diary: Arc<Diary>,
}

impl Running {
    /// The plane `flowspec` alone.
    fn start(world: &World<'_>, more: &str) -> Self {
        Self::spawn(open(&world.config(more)).unwrap().remove(0))
    }

    /// Both planes, over one connection to the daemon, as the agent has them: `flowspec` and `rtbh`.
    fn both(world: &World<'_>) -> [Self; 2] {
        let mut drivers = open(&world.config("")).unwrap();
        let holes = Self::spawn(drivers.remove(1));
        [Self::spawn(drivers.remove(0)), holes]
    }

    fn spawn(driver: Box<dyn Driver>) -> Self {
        let diary = Arc::new(Diary::default());
        let plane = Plane::spawn(driver, Arc::clone(&diary) as Arc<dyn Witness>, Box::new(|_| {})).unwrap();
        Self { plane, diary }
    }

    fn want(&self, steps: &[Step]) {
        self.plane.want(steps.to_vec().into());
    }

    /// Waits for a report.
    fn wait(&self, what: &str, holds: impl Fn(&Report) -> bool) -> Duration {
        until(
            what,
            || holds(&self.plane.report()),
            || format!("{:#?}\n{:#?}", self.plane.report(), self.diary.0.lock().unwrap()),
        )
    }

    fn stop(self) {
        self.plane.stop(Duration::from_secs(10), &|| {});
    }
}

/// Whether these steps and no others are there.
fn present(steps: &[Step]) -> impl Fn(&Report) -> bool {
    let wanted: Vec<(u32, Standing)> = steps.iter().map(|step| (step.id, Standing::Present)).collect();
    move |report| report.steps == wanted && report.leaving == 0
}

fn stands(id: u32, standing: impl Fn(&Standing) -> bool) -> impl Fn(&Report) -> bool {
    move |report| report.steps.iter().any(|(step, found)| *step == id && standing(found))
}

fn flow(matches: &str) -> Key {
    let matches = matches.parse().unwrap();
    let spec = FlowSpec::compile(&matches, matches.family().unwrap()).unwrap().spec;
    (if spec.family() == Family::Ip4 { 1 } else { 2 }, 133, spec.encode())
}

fn prefix(net: &str) -> Key {
    let net: IpNet = net.parse().unwrap();
    let octets = match net {
        IpNet::V4(net) => net.addr().octets().to_vec(),
        IpNet::V6(net) => net.addr().octets().to_vec(),
    };
    let length = usize::from(net.prefix_len()).div_ceil(8);
    (if octets.len() == 4 { 1 } else { 2 }, 1, [&[net.prefix_len()], &octets[..length]].concat())
}

/// Rules whose routes differ, that may be announced, with what they are on the wire.
fn drawn(driver: &dyn Driver, count: usize) -> (Vec<Step>, BTreeMap<Key, Limit>) {
    let (mut steps, mut keys) = (Vec::new(), BTreeMap::new());
    for (matches, action) in draw::rules(31, 6 * count, true).into_iter().zip(draw::actions(32)) {
        let step = filter(steps.len() as u32 + 1, &matches.to_string(), &action.to_string());
        if driver.takes(&step.what).is_err() || steps.len() == count {
            continue;
        }
        let key = flow(&matches.to_string());
        if let Entry::Vacant(free) = keys.entry(key) {
            free.insert(Limit::of(action).unwrap());
            steps.push(step);
        }
    }
    assert!(steps.len() == count, "{} of {count}", steps.len());
    (steps, keys)
}

fn announced_is_heard(kind: Kind) {
    within(kind, |world| {
        let config = world.config("");
        let driver = open(&config).unwrap().remove(0);
        let (steps, keys) = drawn(driver.as_ref(), 40);
        let [flows, holes] = Running::both(world);
        flows.want(&steps);
        let wanted = [
            victim(1, "198.51.100.7/32"),
            victim(2, "2001:db8:ffff::7/128"),
            step(3, "rtbh", What::SourceBlackHole { source: "203.0.113.9/32".parse().unwrap() }),
        ];
        holes.want(&wanted);
        flows.wait("every filter is there", present(&steps));
        holes.wait("every black hole is there", present(&wanted));
        let nets = ["198.51.100.7/32", "2001:db8:ffff::7/128", "203.0.113.9/32"];
        // As this agent encodes it, on the wire of the daemon and of both who heard it.
        for neighbour in [DAEMON, GOBGP, BIRD] {
            world.wire.wait(neighbour, "all of it", |table| table.len() >= keys.len() + nets.len());
            let table = world.wire.table(neighbour).unwrap();
            for (key, limit) in &keys {
                let found = table.get(key).unwrap_or_else(|| panic!("{neighbour}: no {key:02x?} in {table:#02x?}"));
                let limits: Vec<_> = found.extended.iter().map(|one| one[1] == 6 || one[1] == 12).collect();
                assert_eq!(limits, [true], "{neighbour}");
                assert_eq!(found.extended[0][4..], limit.community(0)[4..], "{neighbour}: {key:02x?}");
                assert_eq!(found.extended[0][..2], limit.community(0)[..2], "{neighbour}: {key:02x?}");
                assert!(found.communities.contains(&(64500 << 16 | 7)) && found.large.contains(&MARKER), "{found:?}");
            }
            for net in nets {
                let found = table.get(&prefix(net)).unwrap_or_else(|| panic!("{neighbour}: no {net} in {table:#02x?}"));
                let next_hop = if net.contains(':') { "100::1" } else { "192.0.2.1" };
                assert_eq!(found.next_hop, Some(next_hop.parse().unwrap()), "{neighbour}: {net}");
                // BLACKHOLE (RFC 7999) and NO_EXPORT (RFC 1997).
                assert!(found.communities.is_superset(&[0xffff_029a, 0xffff_ff01].into()), "{neighbour}: {found:?}");
                assert!(found.large.contains(&MARKER), "{neighbour}: {found:?}");
            }
            assert_eq!(table.len(), keys.len() + nets.len(), "{neighbour} tells more than was asked for");
        }
        // Every act was written down before it was done, and how it went.
        let diary = flows.diary.0.lock().unwrap().clone();
        for pair in diary.chunks(2) {
            assert_eq!(pair[1], format!("{}: Ok(())", pair[0]));
        }
        assert_eq!(diary.len(), 2 * steps.len(), "{diary:#?}");
        let half = &steps[..steps.len() / 2];
        flows.want(half);
        flows.wait("half of them is there", present(half));
        flows.want(&[]);
        holes.want(&[]);
        flows.wait("nothing is there", present(&[]));
        holes.wait("nothing is there", present(&[]));
        for neighbour in [DAEMON, GOBGP, BIRD] {
            world.wire.wait(neighbour, "that all of it is gone", Table::is_empty);
        }
        flows.stop();
        holes.stop();
    });
}

#[test]
fn what_gobgp_announces_is_heard_as_it_was_meant() {
    require_root!();
    announced_is_heard(Kind::GoBgp);
}

#[test]
fn what_exabgp_announces_is_heard_as_it_was_meant() {
    require_root!();
    announced_is_heard(Kind::ExaBgp);
}
