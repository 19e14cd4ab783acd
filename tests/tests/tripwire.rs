//! The tripwire: too much of a class wakes the daemon, and what is policed is dropped.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use ftagent::{
    act::{enforcer::Jiffies, store::origin, tripwire::TripwireDriver},
    bpf::{
        lists::Which,
        testrun::{HZ, TestRun, jiffies},
    },
    decide::tripwire::{Bucket, Ceiling, Police},
};
use ftagent_common::{
    DropReason, TrafficClass,
    abi::Sampling,
    class::CLASS_SLOTS,
    reason::verdict,
    sample::{SampleHeader, SampleRecord, flags::WOKE},
    tripwire::BFD_PORTS,
};
use ftagent_tests::{
    packet::{Ipv4, Ipv6, Tcp, Udp},
    require_root,
};

const MS: u64 = 1_000_000;
const CLASS: TrafficClass = TrafficClass::UdpSrcMemcached;

/// The program, with a tripwire.
struct Trap {
    run: TestRun,
    driver: TripwireDriver,
}

impl Trap {
    fn new(stride: u32, burst: u32) -> Self {
        let mut run = TestRun::new(1).unwrap();
        run.set_sampling(Sampling { stride: [stride; CLASS_SLOTS], burst, _pad: 0 }).unwrap();
        let driver = TripwireDriver::new(run.open_tripwire().unwrap());
        Self { run, driver }
    }

    fn hold(&mut self, class: TrafficClass, ceiling: Ceiling, now_ns: u64) {
        let mut all = vec![Ceiling::default(); TrafficClass::COUNT];
        all[class.index()] = ceiling;
        self.driver.apply(&all, Jiffies { now: jiffies(now_ns), hz: HZ });
    }

    fn police(&mut self, class: TrafficClass, pps: f64, now_ns: u64) {
        let police = Some(Police { pps, spared_pps: 100.0, spares_open: true });
        self.hold(class, Ceiling { police, ..Ceiling::default() }, now_ns);
    }

    /// Sends frames at an even rate for a time; returns those that passed.
    fn send(&mut self, frame: &[u8], from_ns: u64, ms: u64, pps: u64) -> u64 {
        let passes = |i: u64| {
            self.run.set_time(from_ns + i * 1_000_000_000 / pps);
            u64::from(self.run.run(frame).unwrap() == verdict::PASS)
        };
        (0..ms * pps / 1000).map(passes).sum()
    }

    fn dropped(&mut self, class: TrafficClass) -> u64 {
        self.run.counters().unwrap().drops[class.index()][DropReason::Ceiling.index()]
    }

    fn woken(&mut self) -> Vec<SampleRecord> {
        std::iter::from_fn(|| self.run.next_sample()).filter(|record| record.header.flags & WOKE != 0).collect()
    }
}

fn memcached(dport: u16) -> Vec<u8> {
    Ipv4::new().frame(&Udp::new(11211, dport, &[7; 1000]).build())
}

#[test]
fn what_nobody_has_business_in_is_dropped_from_its_first_excess_on() {
    require_root!();
    let mut trap = Trap::new(1 << 20, 1);
    trap.police(CLASS, 100.0, 0);
    assert_eq!(trap.send(&memcached(40_000), 0, 1000, 50), 50, "what is not too much passes");
    let passed = trap.send(&memcached(40_000), 1000 * MS, 1000, 20_000);
    assert!((95..=110).contains(&passed), "of 20 000, {passed} passed");
    assert_eq!(trap.dropped(CLASS), 20_000 - passed);
    let other = Ipv4::new().frame(&Udp::new(5555, 40_000, &[7; 1000]).build());
    assert_eq!(trap.send(&other, 2000 * MS, 100, 20_000), 2000, "of its class alone");
}

#[test]
fn services_and_the_allow_list_are_spared() {
    require_root!();
    let mut trap = Trap::new(1 << 20, 1);
    trap.run.set_service_ports(&[27_015]).unwrap();
    trap.police(CLASS, 100.0, 0);
    trap.send(&memcached(40_000), 0, 1000, 20_000);
    assert_eq!(trap.send(&memcached(27_015), 1000 * MS, 1000, 20_000), 20_000, "what is for a service is its business");
    trap.run.lists.insert(Which::Allow, "192.0.2.0/24".parse().unwrap(), u64::MAX, origin::CONFIG).unwrap();
    assert_eq!(trap.send(&memcached(40_000), 2000 * MS, 100, 20_000), 2000);
}

#[test]
fn a_login_has_a_pool_of_its_own_where_new_connections_are_thinned() {
    require_root!();
    let mut trap = Trap::new(1 << 20, 1);
    trap.driver.set_ports([22]);
    trap.police(TrafficClass::TcpSyn, 1000.0, 0);
    let to = |port| Ipv4::new().frame(&Tcp::to(port, 2).build());
    let passed = trap.send(&to(443), 0, 1000, 50_000);
    assert!((950..=1100).contains(&passed), "{passed}");
    let passed = trap.send(&to(22), 1000 * MS, 500, 60);
    assert_eq!(passed, 30, "while the flood goes on or not");
    trap.send(&to(443), 1500 * MS, 1, 50_000);
    assert_eq!(trap.send(&to(22), 1502 * MS, 100, 60), 6);
}

#[test]
fn what_keeps_paths_and_addresses_up_has_a_pool_of_its_own_where_its_class_is_thinned() {
    require_root!();
    let udp = |sport, dport, payload: &[u8]| Ipv4::new().frame(&Udp::new(sport, dport, payload).build());
    let udp6 = |sport, dport, payload: &[u8]| Ipv6::new().frame(&Udp::new(sport, dport, payload).build());
    // A class, what floods it, and what passes all the same: each kind of BFD; DHCP; of DHCPv6, of either size, what
    // goes to servers and relays (a solicit), to clients (an advertisement) and between relays.
    let dhcp6 =
        |size| [udp6(546, 547, &vec![1; size]), udp6(547, 546, &vec![2; size]), udp6(547, 547, &vec![12; size])];
    let small = BFD_PORTS.map(|port| udp(50_000, port, &[0x20; 24])).into_iter().chain(dhcp6(56)).collect::<Vec<_>>();
    let medium = [udp(67, 68, &[2; 300]), udp(68, 67, &[1; 300])].into_iter().chain(dhcp6(120)).collect();
    for (class, size, spared) in [(TrafficClass::UdpSmall, 24, small), (TrafficClass::UdpMedium, 300, medium)] {
        let mut trap = Trap::new(1 << 20, 1);
        trap.police(class, 1000.0, 0);
        let flood = udp(5555, 40_000, &vec![7; size]);
        for (at, frame) in (0..).zip(&spared) {
            let passed = trap.send(&flood, at * 1000 * MS, 500, 50_000);
            assert!(passed <= 550, "{class:?}: {passed}");
            trap.send(&flood, at * 1000 * MS + 500 * MS, 1, 50_000);
            assert_eq!(trap.send(frame, at * 1000 * MS + 502 * MS, 100, 60), 6, "{class:?}, {at}");
        }
    }
}

#[test]
fn a_sample_says_what_became_of_its_packet() {
    require_root!();
    let mut trap = Trap::new(1, 1 << 20);
    trap.police(TrafficClass::TcpSyn, 100.0, 0);
    let syn = Ipv4::new().frame(&Tcp::to(443, 2).build());
    let (mut passed, mut dropped) = (0, 0);
    for n in 0..2000u64 {
        trap.run.set_time(n * MS / 20);
        let dropped_now = trap.run.run(&syn).unwrap() == verdict::DROP;
        let record = trap.run.next_sample().expect("each is sampled");
        let said = (u32::from(record.header.verdict), record.header.reason);
        let is = if dropped_now {
            (verdict::DROP, DropReason::Ceiling as u8)
        } else {
            (verdict::PASS, SampleHeader::NO_REASON)
        };
        assert_eq!(said, is, "packet {n}");
        *(if dropped_now { &mut dropped } else { &mut passed }) += 1;
    }
    assert!(passed > 5 && dropped > 1500, "{passed} {dropped}");
}

#[test]
fn nothing_holds_longer_than_the_daemon_lives() {
    require_root!();
    let mut trap = Trap::new(1 << 20, 1);
    trap.police(CLASS, 100.0, 0);
    trap.send(&memcached(40_000), 29_000 * MS, 500, 20_000);
    assert!(trap.dropped(CLASS) > 9000, "within 30 s");
    let before = trap.dropped(CLASS);
    assert_eq!(trap.send(&memcached(40_000), 31_000 * MS, 100, 20_000), 2000, "and not after");
    assert_eq!(trap.dropped(CLASS), before);
    trap.police(CLASS, 100.0, 31_000 * MS);
    trap.hold(CLASS, Ceiling::default(), 31_000 * MS);
    assert_eq!(trap.send(&memcached(40_000), 31_200 * MS, 100, 20_000), 2000, "nor when it is wanted no more");
}

#[test]
fn the_packet_that_is_too_much_wakes_the_daemon() {
    require_root!();
    let class = TrafficClass::UdpMedium;
    let frame = Ipv4::new().frame(&Udp::new(5555, 40_000, &[7; 500]).build());
    let bytes = frame.len() as f64;
    let pps = Ceiling { wake_pps: Some(Bucket { rate: 1000.0, depth: 220.0 }), ..Ceiling::default() };
    let bps = Ceiling { wake_bps: Some(Bucket { rate: 8000.0 * bytes, depth: 1760.0 * bytes }), ..Ceiling::default() };
    for (name, ceiling) in [("packets", pps), ("bits", bps)] {
        // A stride of 16, and a cap of one sample a jiffy: neither may keep the alarm.
        for (stride, burst) in [(1, u32::MAX), (16, u32::MAX), (16, 1)] {
            let mut trap = Trap::new(stride, burst);
            trap.hold(class, ceiling, 0);
            trap.send(&frame, 0, 2000, 950);
            assert_eq!(trap.woken().len(), 0, "{name}, stride {stride}: below the threshold");
            // 220 above 1000 a second of 20 000 are reached after 11.6 ms.
            trap.send(&frame, 2000 * MS, 30, 20_000);
            let woken = trap.woken();
            let first = woken.first().unwrap().header.time_ns.saturating_sub(2000 * MS);
            assert!(first < 20 * MS, "{name}, stride {stride}: {} µs", first / 1000);
            assert!(woken.len() <= 8, "once a jiffy at most: {}", woken.len());
        }
    }
}
