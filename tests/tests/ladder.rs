//! The ladder with a real daemon, a real BGP speaker, and a router that does what it hears: a flood fills an uplink,
//! is told of upstream, probed, and taken back.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "ladder/edge.rs"]
mod edge;
#[path = "ladder/lost.rs"]
mod lost;
#[path = "ladder/scrub.rs"]
mod scrub;

use std::{fs, thread::sleep, time::Duration};

use edge::{Edge, Rungs, within};
use ftagent_tests::require_root;

fn is_present(edge: &Edge<'_>) -> bool {
    edge.rung("flowspec").state == "present" && !edge.heard().is_empty()
}

fn is_over(edge: &Edge<'_>) -> bool {
    edge.heard().is_empty() && edge.ladder().rungs.iter().all(|rung| rung.steps.is_empty())
}

#[test]
fn a_flood_climbs_is_probed_and_comes_back() {
    require_root!();
    within(Rungs::Filters, |edge| {
        let calm = edge.ladder();
        assert!(calm.uplink.is_some_and(|uplink| uplink.capacity_bps == Some(1e8)), "{:?}", edge.ladder());
        let refused = |words: &[&str], why: &str| {
            let said = edge.daemon.refused(words).unwrap();
            assert!(said.contains(why), "{words:?}: {said}");
        };
        refused(&["ladder", "plan", "--times", "2,10,100000"], "factors from 1 to 10000");
        let plan = edge.daemon.ok(&["ladder", "plan", "--times", "2,10,10000"]).unwrap();
        assert!(
            plan.contains("at 10000× the present load") && plan.contains("flowspec: udp dst 10.77.0.1/32"),
            "{plan}"
        );
        refused(&["ladder", "approve"], "nothing waits");
        refused(&["ladder", "withdraw"], "<ID|--all>");
        refused(&["ladder", "withdraw", "--all"], "there is no attack");

        edge.flood(300);
        edge.wait("the route", 60, is_present);
        let route = edge.heard().remove(0);
        assert!(route.contains("ip daddr 10.77.0.1/32") && route.contains("th sport { 53 }"), "{route}");
        edge.wait("a calm uplink", 60, |edge| {
            edge.ladder().uplink.and_then(|uplink| uplink.utilisation()).is_some_and(|full| full < 0.2)
        });
        edge.serves();
        let said = edge.daemon.ok(&["ladder"]).unwrap();
        assert!(said.contains("1. flowspec [") && said.contains(": there"), "{said}");
        // While it goes on, probes find it.
        edge.wait("a probe that finds it", 60, |edge| edge.ladder().failed_probes > 0);
        let metrics = edge.daemon.metrics().unwrap();
        assert!(metrics.contains("ftagent_ladder_plane_up{rung=\"flowspec\"} 1"), "{metrics}");

        edge.flood(0);
        edge.wait("the end", 120, is_over);
        let audit = edge.daemon.ok(&["audit", "show", "--json"]).unwrap();
        for act in ["flowspec.announce", "flowspec.withdraw", "ladder.escalated", "ladder.probed", "ladder.came-back"] {
            assert!(audit.contains(act), "{act} is not in {audit}");
        }
        assert_eq!(edge.rung("flowspec").state, "idle");
    });
}

#[test]
fn nothing_is_orphaned_by_an_agent_that_is_killed() {
    require_root!();
    within(Rungs::Filters, |edge| {
        edge.flood(300);
        edge.wait("the route", 60, is_present);
        // Recorded: the next life goes on, and nothing is taken back meanwhile.
        let file = edge.daemon.path("state").join("ladder.json");
        edge.wait("the record", 60, |_| fs::read_to_string(&file).is_ok_and(|text| text.contains("Up")));
        edge.daemon.kill().unwrap();
        assert_eq!(edge.heard().len(), 1);
        let sandbox = edge.sandbox;
        edge.daemon.launch(sandbox).unwrap();
        for _ in 0..20 {
            assert!(!edge.heard().is_empty(), "{}", edge.daemon.log());
            sleep(Duration::from_millis(50));
        }
        // Killed between announcement and record: what nobody knows of is taken back.
        edge.wait("the route", 60, is_present);
        edge.daemon.kill().unwrap();
        fs::remove_file(&file).unwrap();
        edge.flood(0);
        edge.daemon.launch(sandbox).unwrap();
        edge.wait("the end", 60, is_over);
    });
}

#[test]
fn what_an_operator_takes_back_stays_away() {
    require_root!();
    within(Rungs::Filters, |edge| {
        edge.flood(300);
        edge.wait("the route", 60, is_present);
        let dry = edge.daemon.ok(&["ladder", "withdraw", "--all", "--dry-run"]).unwrap();
        assert!(dry.contains("would be: flowspec: taken back"), "{dry}");
        edge.wait("that it is still there", 60, is_present);
        edge.daemon.ok(&["ladder", "withdraw", "--all"]).unwrap();
        edge.wait("the withdrawal", 60, |edge| edge.heard().is_empty());
        sleep(Duration::from_secs(5));
        assert!(edge.heard().is_empty());
        assert_eq!(edge.rung("flowspec").state, "withdrawn");
        // Thought over.
        let id = edge.rung("flowspec").id.unwrap().to_string();
        edge.daemon.ok(&["ladder", "approve", &id]).unwrap();
        edge.wait("the route again", 60, is_present);
        // By hand, at the BGP daemon.
        edge.withdraw_by_hand();
        edge.wait("that it is noticed", 60, |edge| edge.rung("flowspec").state == "taken-back");
        sleep(Duration::from_secs(5));
        assert!(edge.heard().is_empty());
    });
}

#[test]
fn a_black_hole_is_climbed_probed_and_taken_back() {
    require_root!();
    within(Rungs::Holes, |edge| {
        // What the router makes of a /32 with the community BLACKHOLE, and of nothing else.
        let hole = format!("ip daddr {}/32 counter drop", edge.victim);
        edge.flood(300);
        edge.wait("the black hole", 60, |edge| edge.rung("rtbh").state == "present" && edge.heard() == [hole.as_str()]);
        edge.serves();
        edge.wait("a probe that finds it", 60, |edge| edge.ladder().failed_probes > 0);
        edge.wait("the black hole again", 60, |edge| edge.heard() == [hole.as_str()]);
        edge.flood(0);
        edge.wait("the end", 120, is_over);
        assert_eq!(edge.announced(), 0);
        let metrics = edge.daemon.metrics().unwrap();
        let seconds = metrics.lines().find_map(|line| line.strip_prefix("ftagent_black_hole_seconds_total "));
        assert!(seconds.is_some_and(|seconds| seconds.parse::<f64>().unwrap() >= 1.0), "{metrics}");
        let audit = edge.daemon.ok(&["audit", "show", "--json"]).unwrap();
        for act in ["rtbh.announce", "rtbh.withdraw", "ladder.escalated", "ladder.probed", "ladder.came-back"] {
            assert!(audit.contains(act), "{act} is not in {audit}");
        }
    });
}
