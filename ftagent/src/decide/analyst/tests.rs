#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]
use super::*;
use crate::{
    decide::{
        Counts, Now, Vector,
        frames::{decoded, ip6, udp_bytes},
    },
    sense::signals,
};

const SECOND: u64 = 1_000_000_000;

fn observe(analyst: &mut Analyst, at_ns: u64, samples: &[Packet], host: Option<&HostSignals>) {
    let counts = Counts::default();
    let now = Now { mono_ns: at_ns, unix_ms: 0 };
    analyst.observe(&Tick { now, elapsed_ns: SECOND / 10, counts: &counts, samples, outbound: None, host, rules: &[] });
}

#[test]
fn peers_that_the_kernel_names_are_known_in_both_families() {
    let peer: u128 = 0x2001_0db8_0000_0007_0000_0000_0000_0001;
    let frame = ip6(peer, 17, &udp_bytes((4000, 5000), b"hello"));
    let block = signals::block_of(std::net::Ipv6Addr::from_bits(peer).into());
    let host = HostSignals { peers: Some(vec![block]), ..HostSignals::default() };
    let mut analyst = Analyst::new(1);
    observe(&mut analyst, SECOND, &[], Some(&host));
    observe(&mut analyst, 70 * SECOND, &[], None);
    observe(&mut analyst, 71 * SECOND, &[decoded(71 * SECOND, &frame)], None);
    let seen = analyst.ring.back().map(|seen| seen.mark.known);
    assert_eq!(seen, Some(true));
}

#[test]
fn held_connections_are_slow_http_only_where_they_are_unusual_and_of_few() {
    // Held at first, held then, nets that they come from; whether that is an attack.
    let rows = [
        ("subscribers of a broker, there from the start", 5000, 5000, 4800, false),
        ("subscribers that come back after a restart", 0, 5000, 4800, false),
        ("connections of two proxies, there from the start", 900, 900, 2, false),
        ("a few more from two proxies", 900, 1200, 2, false),
        ("one host that holds hundreds", 0, 400, 1, true),
        ("two hundred hosts that hold seven each", 20, 1400, 200, true),
        ("fewer than matter", 0, 90, 1, false),
    ];
    for (name, before, stalled, stalled_peers, attack) in rows {
        let mut analyst = Analyst::new(1);
        let mut read = |at: u64, stalled: u32, stalled_peers: u32| {
            let port = PortSockets { port: 80, established: stalled, stalled, stalled_peers, ..PortSockets::default() };
            let host = HostSignals { ports: Some(vec![port]), ..HostSignals::default() };
            observe(&mut analyst, at * SECOND, &[], Some(&host));
            analyst.standing(at * SECOND)
        };
        assert_eq!(read(1, before, before), Judgement::default(), "{name}, at first");
        let names: Vec<Vector> = read(2, stalled, stalled_peers).findings.iter().map(|it| it.vector).collect();
        assert_eq!(names == [Vector::SlowHttp], attack, "{name}: {names:?}");
        analyst.accept();
        observe(&mut analyst, 3 * SECOND, &[], None);
    }
}
