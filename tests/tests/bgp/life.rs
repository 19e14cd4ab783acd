//! Daemons that end and come back, operators who take something back, agents that end in between.

use std::{thread::sleep, time::Instant};

use super::{wire::Attributes, *};

const FLOOD: &str = "dst 198.51.100.7/32 udp sport 123 len 400-1500";
const OTHER: &str = "dst 2001:db8:ffff::7/128 tcp flags syn/syn+ack";

fn lost_with_the_daemon(kind: Kind) {
    within(kind, |world| {
        world.kill_daemon();
        let flows = Running::start(world, "");
        let steps = [filter(1, FLOOD, "drop"), filter(2, OTHER, "rate-limit 10 Mbps")];
        flows.want(&steps);
        let away = |report: &Report| {
            let said = |why: &str| why.contains("is it running");
            report.trouble.as_deref().is_some_and(said)
                && report.steps.len() == 2
                && report.steps.iter().all(|(_, standing)| matches!(standing, Standing::Failed(why) if said(why)))
        };
        flows.wait("it says that the daemon is away", away);
        world.start_daemon();
        flows.wait("it is there once the daemon is", present(&steps));
        let keys = [flow(FLOOD), flow(OTHER)];
        let both = |table: &Table| table.len() == 2 && keys.iter().all(|key| table.contains_key(key));
        world.everywhere("both", both);
        // Once while nobody looks, and twice in a row.
        for _ in 0..3 {
            world.kill_daemon();
            world.start_daemon();
            let since = Instant::now();
            until("the daemon answers", || world.answers(), String::new);
            let back = Instant::now();
            let heard = world.wire.wait(DAEMON, "both again", both);
            println!(
                "{kind:?} answers {:?} after its start; a neighbour has its routes {:?} later",
                back - since,
                heard - back
            );
        }
        // Neighbours take their time to come back to a daemon that left them without a word.
        world.everywhere("both again", both);
        // It ends, and what nobody wants any more when it is back is not put back.
        world.kill_daemon();
        flows.wait("it says that the daemon is away", away);
        flows.want(&steps[1..]);
        world.start_daemon();
        flows.wait("one is there", present(&steps[1..]));
        world.everywhere("the one", |table| table.keys().eq([&keys[1]]));
        flows.want(&[]);
        flows.wait("nothing is there", present(&[]));
        world.everywhere("nothing", Table::is_empty);
        flows.stop();
    });
}

fn taken_back_by_hand(kind: Kind) {
    within(kind, |world| {
        let [flows, holes] = Running::both(world);
        let steps = [filter(1, FLOOD, "drop"), filter(2, OTHER, "drop")];
        flows.want(&steps);
        holes.want(&[victim(1, "198.51.100.7/32")]);
        flows.wait("both are there", present(&steps));
        holes.wait("it is there", stands(1, |standing| *standing == Standing::Present));
        world.wire.wait(DAEMON, "three", |table| table.len() == 3);
        world.by_hand(
            "del -a ipv4-flowspec match destination 198.51.100.7/32 protocol udp source-port ==123 packet-length \
             >=400&<=1500 then discard",
            "withdraw flow route { match { destination 198.51.100.7/32; protocol [ =17 ]; source-port [ =123 ]; \
             packet-length [ >=400&<=1500 ]; } then { discard; } }",
        );
        world.by_hand("del -a ipv4 198.51.100.7/32", "withdraw route 198.51.100.7/32 next-hop 192.0.2.1");
        let taken = |standing: &Standing| *standing == Standing::TakenBack;
        flows.wait("it sees that it was taken back", stands(1, taken));
        holes.wait("it sees that it was taken back", stands(1, taken));
        world.everywhere("the other one", |table| table.keys().eq([&flow(OTHER)]));
        // It stays away, though it is looked at again and again, and though others come.
        let more = [filter(1, FLOOD, "drop"), filter(2, OTHER, "drop"), filter(3, "dst 198.51.100.8/32 udp", "drop")];
        flows.want(&more);
        flows.wait("the third is there", stands(3, |standing| *standing == Standing::Present));
        sleep(Duration::from_secs(3));
        assert!(stands(1, taken)(&flows.plane.report()) && stands(1, taken)(&holes.plane.report()));
        assert!(!world.wire.table(DAEMON).unwrap().contains_key(&flow(FLOOD)));
        // Asked for anew, it comes back.
        let anew = [filter(2, OTHER, "drop"), filter(9, FLOOD, "drop")];
        flows.want(&anew);
        flows.wait("it is there again", present(&anew));
        flows.stop();
        holes.stop();
    });
}

fn an_agent_ends_in_between(kind: Kind) {
    within(kind, |world| {
        // An operator's own, which nobody touches.
        world.by_hand(
            "add -a ipv4-flowspec match destination 198.51.100.99/32 protocol udp then discard",
            "announce flow route { match { destination 198.51.100.99/32; protocol [ =17 ]; } then { discard; } }",
        );
        let foreign = flow("dst 198.51.100.99/32 udp");
        let flows = Running::start(world, "");
        let steps = [filter(1, FLOOD, "drop"), filter(2, OTHER, "drop"), filter(3, "dst 198.51.100.99/32 udp", "drop")];
        flows.want(&steps);
        let there = |standing: &Standing| *standing == Standing::Present;
        flows.wait("two are there", |report| stands(1, there)(report) && stands(2, there)(report));
        let refused = |standing: &Standing| matches!(standing, Standing::Failed(why) if why.contains("somebody else"));
        flows.wait("it does not overwrite what is not its own", stands(3, refused));
        world.wire.wait(DAEMON, "three", |table| table.len() == 3);
        let theirs = Attributes { large: [].into(), ..world.wire.table(DAEMON).unwrap()[&foreign].clone() };
        // It is gone between announcing and writing down; another life wants one of them only, and knows nothing.
        flows.stop();
        let diary = Diary::default();
        let kept = [filter(70, OTHER, "drop")];
        let fresh = || open(&world.config("")).unwrap().remove(0);
        let report = fresh().reconcile(&kept, &diary);
        assert!(present(&kept)(&report), "{report:#?}");
        world.everywhere("that the other is gone", |table| table.len() == 2 && table.contains_key(&flow(OTHER)));
        // And one that wants nothing.
        let report = fresh().reconcile(&[], &diary);
        assert!(present(&[])(&report), "{report:#?}");
        world.everywhere("the operator's alone", |table| table.keys().eq([&foreign]));
        assert_eq!(world.wire.table(DAEMON).unwrap()[&foreign], theirs);
        let diary = diary.0.lock().unwrap().clone();
        let begins = |line: usize, words: &str| diary[line].starts_with(words);
        let [flood, other] = ["withdraw flow4 dst 198.51.100.7/32", "withdraw flow6 dst 2001:db8:ffff::7/128"];
        assert!(diary.len() == 4 && begins(0, flood) && begins(2, other), "{diary:#?}");
    });
}

fn what_must_not_be_announced(kind: Kind) {
    within(kind, |world| {
        let flows = Running::start(world, "max_announcements = 2\n");
        let steps = [
            filter(1, "dst 203.0.113.7/32 udp", "drop"),
            filter(2, "dst 198.51.100.0/24 udp", "drop"),
            filter(3, "dst 198.51.100.7/32", "drop"),
            filter(4, "src 192.0.2.1 udp", "drop"),
            filter(5, FLOOD, "drop"),
            filter(6, OTHER, "drop"),
            filter(7, "dst 198.51.100.8/32 udp", "drop"),
        ];
        flows.want(&steps);
        flows.wait("what may be there is", stands(6, |standing| *standing == Standing::Present));
        let report = flows.plane.report();
        let words = ["own_prefixes", "bgp.protect", "black hole", "no destination", "", "", "max_announcements"];
        assert_eq!(report.steps.len(), words.len(), "{report:#?}");
        for ((id, standing), word) in report.steps.iter().zip(words) {
            match standing {
                Standing::Present => assert_eq!(word, "", "{id}"),
                Standing::Refused(why) | Standing::Failed(why) => {
                    assert!(!word.is_empty() && why.contains(word), "{why}")
                }
                other => panic!("{id}: {other:?}"),
            }
        }
        let mine = |table: &Table| table.keys().cloned().collect::<Vec<_>>() == [flow(FLOOD), flow(OTHER)];
        world.wire.wait(DAEMON, "just two", mine);
        // Room that one leaves is taken by the next.
        flows.want(&steps[5..]);
        flows.wait("both are there", present(&steps[5..]));
        world.wire.wait(DAEMON, "just two", |table| table.len() == 2 && !table.contains_key(&flow(FLOOD)));
        flows.want(&[]);
        flows.wait("nothing is there", present(&[]));
        flows.stop();
    });
}

/// Rules that come and go one by one, as in an attack of many vectors. Prints how long it takes from asking until a
/// neighbour has the route; nothing depends on that.
fn one_by_one(kind: Kind) {
    within(kind, |world| {
        let flows = Running::start(world, "");
        flows.wait("it has looked", |report| report.trouble.is_none() && !report.plane.is_empty());
        let (mut wanted, mut direct, mut beyond): (Vec<Step>, Vec<Duration>, Vec<Duration>) = Default::default();
        for id in 1..=120 {
            let text = format!("dst 198.51.100.7/32 udp sport {id} len 400-1500");
            wanted.push(filter(id, &text, "drop"));
            if wanted.len() > 20 {
                wanted.remove(0);
            }
            let (key, since) = (flow(&text), Instant::now());
            flows.want(&wanted);
            direct.push(world.wire.wait(DAEMON, "it", |table| table.contains_key(&key)) - since);
            beyond.push(world.wire.wait(BIRD, "it", |table| table.contains_key(&key)) - since);
        }
        for (what, times) in [("in the neighbour", &mut direct), ("told on by BIRD", &mut beyond)] {
            times.sort();
            let at = |part: usize| times[(times.len() - 1) * part / 100];
            println!(
                "{kind:?}: wanted until {what}, {} routes: p50 {:?}, p99 {:?}, most {:?}",
                times.len(),
                at(50),
                at(99),
                at(100)
            );
        }
        let keys: std::collections::BTreeSet<Key> =
            (101..=120).map(|id| flow(&format!("dst 198.51.100.7/32 udp sport {id} len 400-1500"))).collect();
        world.everywhere("the last twenty and no others", |table| table.keys().eq(&keys));
        flows.want(&[]);
        flows.wait("nothing is there", present(&[]));
        world.everywhere("nothing", Table::is_empty);
        flows.stop();
    });
}

macro_rules! tests {
    ($($name:ident $gobgp:ident $exabgp:ident,)*) => {$(
        #[test]
        fn $gobgp() {
            require_root!();
            $name(Kind::GoBgp);
        }

        #[test]
        fn $exabgp() {
            require_root!();
            $name(Kind::ExaBgp);
        }
    )*};
}

tests! {
    lost_with_the_daemon gobgp_restarts_and_nothing_is_lost exabgp_restarts_and_nothing_is_lost,
    taken_back_by_hand what_an_operator_takes_back_stays_away_gobgp what_an_operator_takes_back_stays_away_exabgp,
    an_agent_ends_in_between gobgp_keeps_nothing_that_an_agent_left exabgp_keeps_nothing_that_an_agent_left,
    what_must_not_be_announced gobgp_is_told_nothing_that_must_not_be exabgp_is_told_nothing_that_must_not_be,
    one_by_one gobgp_is_told_of_rules_that_come_and_go exabgp_is_told_of_rules_that_come_and_go,
}
