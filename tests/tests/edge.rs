//! The uplink that the ladder is tested on is itself tested: it fills, and the router does what routes say.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use ftagent_tests::{
    daemon::{PATIENCE, wait_for},
    edge::{API, Edge, Enforcer, Flooding, Meter, Speakers},
    peers, require_root,
    sandbox::Sandbox,
    traffic::{Flood, vectors},
};

/// The uplink's capacity.
const MBIT: u32 = 100;

#[test]
fn a_flood_fills_the_uplink_until_a_route_is_enforced() {
    require_root!();
    if !peers::need("the uplink", &["gobgpd", "gobgp", "nft"]) {
        return;
    }
    Sandbox::run(|sandbox| {
        let edge = Edge::new(sandbox, MBIT).unwrap();
        let _speakers = Speakers::start(sandbox, &edge).unwrap().unwrap();
        let (enforcer, meter) = (Enforcer::start(sandbox), Meter::start(sandbox, &edge, MBIT));
        let flood = vectors::find("dns_amplification").unwrap().flood(&edge.way());
        let flood = Flooding::begin(&edge, Flood { pps: Some(20_000), ..flood }).unwrap();
        let load = |meter: &Meter| meter.loads().last().map_or(0.0, |load| load.bits / 1e6);
        wait_for("a full uplink", PATIENCE, || meter.loads().last()?.full.then_some(())).unwrap();
        let route = ["match", "destination", "10.77.0.1/32", "protocol", "udp", "source-port", "==53"];
        let announce = |verb: &str| {
            let mut gobgp = peers::program("gobgp").unwrap();
            let port = API.rsplit_once(':').unwrap().1;
            gobgp.args(["-p", port, "global", "rib", verb, "-a", "ipv4-flowspec"]).args(route);
            if verb == "add" {
                gobgp.args(["then", "discard"]);
            }
            let output = gobgp.output().unwrap();
            assert!(output.status.success(), "{output:?}");
        };
        announce("add");
        wait_for("the route at the router", PATIENCE, || (enforcer.rules().len() == 1).then_some(())).unwrap();
        wait_for("a quiet uplink", PATIENCE, || (load(&meter) < 1.0).then_some(())).unwrap();
        let since = Instant::now();
        sleep(Duration::from_secs(1));
        assert!(load(&meter) < 1.0 && meter.full_since(since) == 0.0, "{} Mbit/s still go over it", load(&meter));
        announce("del");
        wait_for("a full uplink again", PATIENCE, || meter.loads().last()?.full.then_some(())).unwrap();
        flood.end().unwrap();
        let changes = enforcer.end().unwrap();
        let counts: Vec<usize> = changes.iter().map(|change| change.rules.len()).collect();
        assert_eq!(counts, [1, 0]);
    })
    .unwrap();
}
