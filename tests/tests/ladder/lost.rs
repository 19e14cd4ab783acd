//! What is upstream when the BGP daemon dies, and when the agent leaves.

use std::{fs, thread::sleep, time::Duration};

use ftagent::bpf::attach;
use ftagent_tests::{
    daemon::{BPFFS, PATIENCE, wait_for},
    require_root,
};

use super::{
    edge::{Edge, Rungs, within},
    is_over, is_present,
};

#[test]
fn routes_are_back_after_the_bgp_daemon_was_killed_and_gone_after_the_end() {
    require_root!();
    within(Rungs::Filters, |edge| {
        edge.flood(200);
        edge.wait("the route", 60, is_present);
        for round in 1..=2 {
            edge.kill_speaker();
            edge.wait("a router that forgets it", 60, |edge| edge.heard().is_empty());
            let away = "ftagent_ladder_plane_up{rung=\"flowspec\"} 0";
            edge.wait("an agent that notices", 60, |edge| edge.daemon.metrics().unwrap().contains(away));
            // Whoever comes back comes into a full uplink, over which its session goes.
            let (has, heard) = edge.revive_speaker();
            println!(
                "round {round}: the BGP daemon has the route {has:?} after it answers, and the router does what it says \
                 {heard:?} after that answer, over an uplink that is full until then"
            );
            edge.wait("a ladder that knows", 60, is_present);
            edge.wait("a calm uplink", 60, |edge| {
                edge.ladder().uplink.and_then(|uplink| uplink.utilisation()).is_some_and(|full| full < 0.2)
            });
            edge.serves();
        }
        edge.flood(0);
        edge.wait("the end", 120, is_over);
        sleep(Duration::from_secs(3));
        assert_eq!((edge.announced(), edge.heard()), (0, Vec::new()), "none comes after the end");
    });
}

/// Nothing of the agent's is left on this host: no program, pin or table.
fn is_gone_here(edge: &Edge<'_>) {
    let program = || attach::ifindex("wan0").map(|index| attach::query(index).unwrap());
    wait_for("the program's end", PATIENCE, || program()?.is_none().then_some(())).unwrap();
    assert!(!fs::exists(BPFFS).unwrap(), "pins are left");
    let tables = edge.sandbox.command("nft list ruleset").unwrap();
    assert!(!tables.contains("ftagent"), "{tables}");
}

/// Detaches while something is upstream, by the daemon or, where that was killed, without it.
fn detach_takes_it_off_the_peer(rungs: Rungs, running: bool) {
    within(rungs, |edge| {
        edge.flood(300);
        edge.wait("something upstream", 60, |edge| !edge.heard().is_empty() && edge.announced() > 0);
        if !running {
            edge.daemon.kill().unwrap();
            assert_eq!(edge.heard().len(), 1, "it outlives the daemon");
        }
        edge.daemon.ok(&["detach"]).unwrap();
        assert_eq!(edge.announced(), 0, "the command ends when nothing is left");
        edge.wait("a peer that has nothing", 60, |edge| edge.heard().is_empty());
        if running {
            edge.daemon.wait_for_end().unwrap();
        }
        is_gone_here(edge);
        // The attack goes on, and nobody is there to ask for anything.
        sleep(Duration::from_secs(2));
        assert_eq!((edge.announced(), edge.heard()), (0, Vec::new()));
        let audit = edge.daemon.ok(&["audit", "show", "--json"]).unwrap();
        for act in ["daemon.detach", if rungs == Rungs::Holes { "rtbh.withdraw" } else { "flowspec.withdraw" }] {
            assert!(audit.contains(act), "{act} is not in {audit}");
        }
    });
}

macro_rules! detaching {
    ($($name:ident $rungs:ident $running:literal,)*) => {$(
        #[test]
        fn $name() {
            require_root!();
            detach_takes_it_off_the_peer(Rungs::$rungs, $running);
        }
    )*};
}

detaching! {
    detach_takes_a_filter_off_the_peer Filters true,
    detach_takes_a_filter_off_the_peer_after_the_daemon_was_killed Filters false,
    detach_takes_a_black_hole_off_the_peer Holes true,
    detach_takes_a_black_hole_off_the_peer_after_the_daemon_was_killed Holes false,
}
