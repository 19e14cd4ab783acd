//! Feeds as they arrive: well formed, broken, hostile, cut short.

use std::fs;

use proptest::prelude::*;

use super::*;
use crate::sense::host::HostFacts;

/// A guard that knows 192.0.2.10 as an address of this host.
fn guard() -> Guard {
    let own = ["192.0.2.10/32".parse().unwrap()].into();
    Guard::from(&HostFacts { addresses: own, ..HostFacts::default() })
}

fn nets(text: &str) -> (Vec<String>, Report) {
    let (entries, report) = read(text.as_bytes(), Some(&guard())).unwrap();
    (entries.nets().map(|net| net.to_string()).collect(), report)
}

#[test]
fn forms_of_lines() {
    let text = "\u{feff}; Spamhaus DROP List\r\n1.10.16.0/20 ; SBL256894\r\n\r\n  203.0.113.7\t# one\r\n\
                2001:db8::/32;x\r\n2001:db8:1::9\n198.51.100.77/24\n203.0.113.7";
    let (entries, report) = nets(text);
    assert_eq!(entries, ["1.10.16.0/20", "198.51.100.0/24", "203.0.113.7/32", "2001:db8::/32", "2001:db8:1::9/128"]);
    assert_eq!((report.broken, report.refused, report.host_bits_cleared), (0, 0, 1));
}

#[test]
fn lines_that_give_no_entry_are_told_and_the_rest_loads() {
    let text = "203.0.113.1\n1.2.3\n0.0.0.0/0\n::/0\n192.0.2.10\n192.0.2.0/24\n1.2.3.0/33\n127.0.0.1\n\
                example.com\n1.2.3.4 bad\n1.2.3.4,bad\n::1\n7.0.0.0/7\n2000::/3\n203.0.113.2\n";
    let (entries, report) = nets(text);
    assert_eq!(entries, ["203.0.113.1/32", "203.0.113.2/32"]);
    assert_eq!((report.broken, report.refused), (5, 8));
    let told: Vec<_> = report.problems.iter().map(|problem| (problem.line, problem.text.as_str())).collect();
    assert_eq!(told[..5], [(2, "1.2.3"), (3, "0.0.0.0/0"), (4, "::/0"), (5, "192.0.2.10"), (6, "192.0.2.0/24")]);
    assert!(report.problems[1].reason.contains("/8"), "{:?}", report.problems[1]);
    assert!(report.problems[3].reason.contains("an address of this host"), "{:?}", report.problems[3]);
}

#[test]
fn problems_are_counted_but_few_are_kept() {
    let text = "x\n".repeat(1000) + &"y".repeat(100_000) + "\n\u{0}\u{1}\n203.0.113.1\n";
    let (entries, report) = nets(&text);
    assert_eq!(entries, ["203.0.113.1/32"]);
    assert_eq!((report.broken, report.problems.len()), (1002, KEPT_PROBLEMS));
}

proptest! {
    #[test]
    fn any_line_is_blank_a_prefix_or_broken(bytes: Vec<u8>) {
        if let Line::Net { net, .. } = line(&bytes) {
            prop_assert_eq!(net, net.trunc());
        }
    }

    #[test]
    fn a_prefix_is_read_back_with_its_host_bits_clear(address: std::net::IpAddr, length in 0u8..=128, tail in "[ \t]*([#;].*)?\r?") {
        let max = if address.is_ipv4() { 32 } else { 128 };
        let net = ipnet::IpNet::new(address, length.min(max)).unwrap();
        prop_assert_eq!(line(format!("  {net}{tail}").as_bytes()), Line::Net { net: net.trunc(), host_bits: net != net.trunc() });
    }

    #[test]
    fn any_bytes_are_read_to_the_end(bytes in proptest::collection::vec(any::<u8>(), 0..20_000), capacity in 1usize..64) {
        let (_, report) = read(BufReader::with_capacity(capacity, bytes.as_slice()), None).unwrap();
        let (_, whole) = read(bytes.as_slice(), None).unwrap();
        prop_assert_eq!(report, whole);
    }

    #[test]
    fn changes_are_those_of_sets(old: std::collections::BTreeSet<u8>, new: std::collections::BTreeSet<u8>) {
        let entries = |set: &std::collections::BTreeSet<u8>| {
            let text: String = set.iter().map(|i| format!("203.0.113.{i}\n2001:db8::{i}\n")).collect();
            read(text.as_bytes(), None).unwrap().0
        };
        let expected = (2 * new.difference(&old).count(), 2 * old.difference(&new).count());
        prop_assert_eq!(entries(&new).changes_since(&entries(&old)), expected);
    }
}

struct Bench {
    dir: tempfile::TempDir,
    feeds: Feeds,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let feeds = Self::open(&dir);
        Self { dir, feeds }
    }

    fn open(dir: &tempfile::TempDir) -> Feeds {
        let path = dir.path().join("list.txt");
        let text = format!("[[feeds]]\nname = \"list\"\npath = {path:?}\n");
        Feeds::new(&Config::parse(&text, "test").unwrap(), dir.path())
    }

    fn restart(&mut self) {
        self.feeds = Self::open(&self.dir);
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("list.txt")
    }

    /// Replaces the file by one with addresses of these numbers.
    fn write(&self, range: std::ops::Range<u32>) {
        let text: String = range.map(|i| format!("{}\n", std::net::Ipv4Addr::from(0xcb00_0000 + i))).collect();
        fs::write(self.dir.path().join("next"), text).unwrap();
        fs::rename(self.dir.path().join("next"), self.file()).unwrap();
    }

    /// Polls and returns what happened in a word, and how many entries are in force.
    fn poll(&mut self) -> (&'static str, usize) {
        let events = self.feeds.poll(&guard());
        assert!(events.len() <= 1);
        let word = match events.first().map(|event| &event.kind) {
            None => "nothing",
            Some(FeedEventKind::Accepted { .. }) => "accepted",
            Some(FeedEventKind::Held { .. }) => "held",
            Some(FeedEventKind::Missing) => "missing",
            Some(FeedEventKind::Failed { .. }) => "failed",
        };
        let entries = self.feeds.build(&guard()).unwrap().len();
        assert_eq!(self.feeds.status().next().unwrap().entries, entries);
        (word, entries)
    }
}

#[test]
fn a_feed_that_halves_or_doubles_is_held_until_it_is_confirmed() {
    let mut bench = Bench::new();
    bench.write(0..100);
    assert_eq!(bench.poll(), ("accepted", 100));
    assert_eq!(bench.poll(), ("nothing", 100));
    bench.write(0..150);
    assert_eq!(bench.poll(), ("accepted", 150), "half is not more than half");
    bench.write(0..74);
    assert_eq!(bench.poll(), ("held", 150), "halved");
    assert_eq!(bench.poll(), ("nothing", 150));
    bench.write(0..300);
    assert_eq!(bench.poll(), ("held", 150), "doubled");
    let held = bench.feeds.status().next().unwrap().held;
    assert_eq!(held, Some(Change { entries: 300, added: 150, removed: 0 }));
    bench.write(40..190);
    assert_eq!(bench.poll(), ("held", 150), "as many, but others");
    bench.write(0..160);
    assert_eq!(bench.poll(), ("accepted", 160), "mended by itself");
    assert!(matches!(bench.feeds.confirm("list"), Err(ConfirmError::NotHeld(_))));
    assert!(bench.feeds.confirm("other").unwrap_err().to_string().contains("list"));
    bench.write(0..20);
    assert_eq!(bench.poll(), ("held", 160));
    assert_eq!(bench.feeds.confirm("list").unwrap().removed, 140);
    assert_eq!(bench.poll(), ("nothing", 20));
}

#[test]
fn the_comparison_survives_a_restart() {
    let mut bench = Bench::new();
    bench.write(0..100);
    assert_eq!(bench.poll(), ("accepted", 100));
    bench.restart();
    assert!(!bench.feeds.poll(&guard()).iter().any(FeedEvent::changes_set));
    bench.write(0..10);
    bench.restart();
    assert_eq!(bench.poll(), ("held", 100));
    bench.restart();
    assert_eq!(bench.poll(), ("held", 100));
    bench.feeds.confirm("list").unwrap();
    assert_eq!(bench.poll(), ("nothing", 10));
    // Below ten entries a feed changes as it likes; ten are the first that do not.
    bench.write(0..5);
    assert_eq!(bench.poll(), ("accepted", 5));
    bench.write(0..50);
    assert_eq!(bench.poll(), ("accepted", 50));
}

#[test]
fn a_feed_that_vanishes_or_turns_to_rubbish_keeps_its_last_version() {
    let mut bench = Bench::new();
    assert_eq!(bench.poll(), ("missing", 0));
    assert_eq!(bench.poll(), ("nothing", 0));
    bench.write(0..100);
    assert_eq!(bench.poll(), ("accepted", 100));
    fs::remove_file(bench.file()).unwrap();
    assert_eq!(bench.poll(), ("missing", 100));
    assert_eq!(bench.poll(), ("nothing", 100));
    fs::write(bench.file(), "<html>503</html>\n").unwrap();
    assert_eq!(bench.poll(), ("failed", 100));
    assert_eq!(bench.poll(), ("nothing", 100));
    fs::write(bench.file(), "").unwrap();
    assert_eq!(bench.poll(), ("held", 100), "an empty file removes everything");
    fs::remove_file(bench.file()).unwrap();
    fs::create_dir(bench.file()).unwrap();
    assert_eq!(bench.poll(), ("failed", 100));
    assert_eq!(bench.poll(), ("nothing", 100));
}

#[test]
fn a_feed_is_in_force_although_the_disk_does_not_take_it() {
    let mut bench = Bench::new();
    // Nothing can be written where a file is.
    let dir = bench.dir.path().join("feeds");
    fs::write(&dir, "").unwrap();
    bench.write(0..100);
    assert_eq!(bench.poll(), ("accepted", 100));
    let told = bench.feeds.unsaved().unwrap();
    assert!(told.contains("list.accepted") && told.contains("paths.state"), "{told}");
    bench.write(0..10);
    assert_eq!(bench.poll(), ("held", 100), "it is compared with what is in memory");
    bench.feeds.confirm("list").unwrap();
    assert_eq!(bench.poll(), ("nothing", 10));
    bench.feeds.save();
    assert!(bench.feeds.unsaved().is_some());
    fs::remove_file(&dir).unwrap();
    bench.feeds.save();
    assert_eq!(bench.feeds.unsaved(), None);
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "nothing is held any more");
    bench.restart();
    bench.write(0..9);
    assert_eq!(bench.poll(), ("accepted", 9), "compared with the ten");
}

#[test]
fn an_address_that_becomes_our_own_is_left_out() {
    let mut bench = Bench::new();
    bench.write(0..100);
    bench.poll();
    let own = ["203.0.0.5/32".parse().unwrap()].into();
    let guard = Guard::from(&HostFacts { addresses: own, ..HostFacts::default() });
    assert_eq!(bench.feeds.build(&guard).unwrap().len(), 99);
}

#[test]
fn copies_of_feeds_that_are_not_configured_any_more_are_removed() {
    let mut bench = Bench::new();
    bench.write(0..100);
    bench.poll();
    Feeds::new(&Config::default(), bench.dir.path());
    assert_eq!(fs::read_dir(bench.dir.path().join("feeds")).unwrap().count(), 0);
}
