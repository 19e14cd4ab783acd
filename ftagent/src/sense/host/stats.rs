//! The kernel's own protocol statistics: `/proc/net/netstat`, `/proc/net/snmp` and
//! `/proc/net/snmp6` (net/ipv4/proc.c, net/ipv6/proc.c), as differences between two readings.

use super::{HostRoot, lines};
use crate::sense::signals::HostSignals;

/// Where a counter goes.
type Field = fn(&mut HostSignals) -> &mut u64;

/// Every counter that matters: the group it stands in (none in `snmp6`), its name, and where it
/// goes. Several may go to one place.
const COUNTERS: [(&str, &str, Field); 15] = [
    ("Tcp", "PassiveOpens", |s| &mut s.passive_opens),
    ("Tcp", "ActiveOpens", |s| &mut s.active_opens),
    ("Tcp", "AttemptFails", |s| &mut s.attempt_fails),
    ("Tcp", "OutRsts", |s| &mut s.resets_sent),
    ("TcpExt", "ListenOverflows", |s| &mut s.listen_overflows),
    ("TcpExt", "SyncookiesSent", |s| &mut s.cookies_sent),
    ("TcpExt", "SyncookiesRecv", |s| &mut s.cookies_received),
    ("TcpExt", "TCPReqQFullDoCookies", |s| &mut s.request_queue_full),
    ("TcpExt", "TCPReqQFullDrop", |s| &mut s.request_queue_full),
    ("Udp", "NoPorts", |s| &mut s.udp_no_ports),
    ("Udp", "InDatagrams", |s| &mut s.udp_delivered),
    ("Udp", "OutDatagrams", |s| &mut s.udp_sent),
    ("", "Udp6NoPorts", |s| &mut s.udp_no_ports),
    ("", "Udp6InDatagrams", |s| &mut s.udp_delivered),
    ("", "Udp6OutDatagrams", |s| &mut s.udp_sent),
];

/// What every counter had reached; `None` where the kernel lacks it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals([Option<u64>; COUNTERS.len()]);

impl Totals {
    /// Reads them; what could not be read goes to `problems`.
    pub fn read(root: &HostRoot, problems: &mut Vec<String>) -> Self {
        let mut totals = Self::default();
        let net = root.proc.join("net");
        for name in ["snmp", "netstat"] {
            totals.take_groups(lines(&net.join(name), problems));
        }
        for line in lines(&net.join("snmp6"), problems) {
            let mut words = line.split_ascii_whitespace();
            if let (Some(name), Some(value)) = (words.next(), words.next()) {
                totals.take("", name, value);
            }
        }
        totals
    }

    /// Reads pairs of lines: `Tcp: <names>`, then `Tcp: <values>`.
    fn take_groups(&mut self, mut lines: impl Iterator<Item = String>) {
        while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
            let (Some((group, names)), Some((_, values))) = (names.split_once(':'), values.split_once(':')) else {
                continue;
            };
            for (name, value) in names.split_ascii_whitespace().zip(values.split_ascii_whitespace()) {
                self.take(group, name, value);
            }
        }
    }

    fn take(&mut self, group: &str, name: &str, value: &str) {
        for (total, (wanted_group, wanted, _)) in self.0.iter_mut().zip(&COUNTERS) {
            if *wanted == name && *wanted_group == group {
                *total = value.parse().ok();
            }
        }
    }

    /// Returns what was counted between an earlier reading and this one.
    pub fn since(&self, earlier: &Self, interval_ns: u64) -> HostSignals {
        let mut signals = HostSignals { interval_ns, ..HostSignals::default() };
        for ((now, then), (_, _, field)) in self.0.iter().zip(&earlier.0).zip(&COUNTERS) {
            if let (Some(now), Some(then)) = (now, then) {
                let sum = field(&mut signals);
                *sum = sum.saturating_add(difference(*now, *then));
            }
        }
        signals
    }
}

/// Counters are as wide as the kernel's `unsigned long`: one that goes back over a short way has
/// wrapped at 32 bits, any other began anew.
fn difference(now: u64, then: u64) -> u64 {
    const WRAP: u64 = 1 << 32;
    match now.checked_sub(then) {
        Some(difference) => difference,
        None if then < WRAP => Some(now + WRAP - then).filter(|difference| *difference < WRAP / 2).unwrap_or(0),
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SNMP: &str = "\
Ip: Forwarding DefaultTTL
Ip: 2 64
Tcp: RtoAlgorithm MaxConn ActiveOpens PassiveOpens AttemptFails OutRsts
Tcp: 1 -1 127 5 1 113
Udp: InDatagrams NoPorts InErrors OutDatagrams
Udp: 242 3 0 244
UdpLite: InDatagrams NoPorts InErrors OutDatagrams
UdpLite: 9 9 9 9
";
    const NETSTAT: &str = "\
TcpExt: SyncookiesSent SyncookiesRecv ListenOverflows TCPReqQFullDoCookies TCPReqQFullDrop
TcpExt: 10 2 4 6 8
IpExt: InNoRoutes
IpExt: 0
";
    const SNMP6: &str = "Udp6InDatagrams                 \t58\nUdp6NoPorts \t7\nUdp6OutDatagrams \t56\n";

    fn read(files: &[(&str, &str)]) -> (Totals, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("proc/net")).unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join("proc/net").join(name), text).unwrap();
        }
        let mut problems = Vec::new();
        (Totals::read(&HostRoot::at(dir.path()), &mut problems), problems)
    }

    #[test]
    fn both_families_and_all_files_are_summed_since_the_last_reading() {
        let zero = (SNMP.replace("127 5 1 113", "120 4 1 100"), SNMP6.replace("58", "50"));
        let (before, _) = read(&[("snmp", &zero.0), ("netstat", NETSTAT), ("snmp6", &zero.1)]);
        let more = NETSTAT.replace("10 2 4 6 8", "20 3 5 7 10");
        let udp = SNMP.replace("242 3 0 244", "252 4 0 250");
        let (now, problems) = read(&[("snmp", &udp), ("netstat", &more), ("snmp6", SNMP6)]);
        let expected = HostSignals {
            interval_ns: 200,
            passive_opens: 1,
            active_opens: 7,
            attempt_fails: 0,
            resets_sent: 13,
            listen_overflows: 1,
            cookies_sent: 10,
            cookies_received: 1,
            request_queue_full: 3,
            udp_no_ports: 1,
            udp_delivered: 10 + 8,
            udp_sent: 6,
            ..HostSignals::default()
        };
        assert_eq!(now.since(&before, 200), expected);
        assert_eq!(problems, Vec::<String>::new());
    }

    #[test]
    fn counters_that_are_missing_new_or_broken_count_nothing() {
        let all = [("snmp", SNMP), ("netstat", NETSTAT), ("snmp6", SNMP6)];
        let (whole, _) = read(&all);
        let (nothing, problems) = read(&[]);
        let (broken, _) = read(&[("snmp", "Tcp: ActiveOpens\nTcp: x\nTcp: PassiveOpens"), ("netstat", "TcpExt")]);
        let none = HostSignals { interval_ns: 1, ..HostSignals::default() };
        for (now, then) in [(whole, nothing), (nothing, whole), (broken, whole), (whole, broken), (whole, whole)] {
            assert_eq!(now.since(&then, 1), none);
        }
        assert_eq!(problems, Vec::<String>::new(), "a kernel without IPv6 is no problem");
    }

    #[test]
    fn a_counter_may_wrap_and_may_begin_anew() {
        let cases = [
            (5, 3, 2),
            (4, u64::from(u32::MAX), 5),
            (0, 100, 0),
            (7, u64::from(u32::MAX) / 3, 0),
            (7, u64::MAX - 1, 0),
            (u64::MAX, 0, u64::MAX),
        ];
        for (now, then, counted) in cases {
            assert_eq!(difference(now, then), counted, "{now} after {then}");
        }
    }
}
