//! Block lists from files, while the daemon runs.

use std::fmt::Write as _;

use std::{fs, ops::Range};

use ftagent::feeds::{FeedState, FeedStatus};
use ftagent_tests::{
    daemon::{Daemon, PATIENCE, wait_for},
    require_root,
    sandbox::Sandbox,
};

use super::drops;

/// Starts a daemon with one feed, `bad`, that says this.
fn with_feed(sandbox: &Sandbox, text: &str) -> Daemon {
    let mut daemon = Daemon::new(&["wan0"], "").unwrap();
    let path = daemon.path("bad.txt");
    let sections = format!(
        "[services]\ndetect = false\n[feed]\nreload_interval = \"1s\"\n[[feeds]]\nname = \"bad\"\npath = {path:?}\n"
    );
    daemon.configure(&sections).unwrap();
    rewrite(&daemon, text);
    daemon.launch(sandbox).unwrap();
    daemon
}

/// Replaces the feed's file as careful writers do.
fn rewrite(daemon: &Daemon, text: &str) {
    let (new, path) = (daemon.path("bad.new"), daemon.path("bad.txt"));
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

fn feed(daemon: &Daemon) -> FeedStatus {
    daemon.status().unwrap().feeds.remove(0)
}

/// Waits until the feed is as wanted, and returns it.
fn wait_for_feed(daemon: &Daemon, wanted: impl Fn(&FeedStatus) -> bool) -> FeedStatus {
    wait_for("the feed", PATIENCE, || Some(feed(daemon)).filter(&wanted)).unwrap()
}

fn hosts(range: Range<u8>) -> String {
    range.fold(String::new(), |mut text, low| {
        writeln!(text, "198.51.100.{low}").unwrap();
        text
    })
}

#[test]
fn broken_lines_are_numbered_and_the_rest_is_in_force() {
    require_root!();
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        let text = "# a list\n198.51.100.1\n198.51.100.300\n2001:db8:bad::/48 ; a comment\nwhat is this\n";
        let daemon = with_feed(sandbox, text);
        let feed = feed(&daemon);
        assert_eq!((feed.state, feed.entries, feed.report.broken), (FeedState::Accepted, 2, 2));
        assert_eq!(feed.report.problems.iter().map(|problem| problem.line).collect::<Vec<_>>(), [3, 5]);
        assert!(daemon.log().contains("line 3: `198.51.100.300`"), "{}", daemon.log());
        assert!(daemon.ok(&["feeds"]).unwrap().contains("line 3: `198.51.100.300`"));
        assert!(drops(sandbox, &veth, &daemon, "198.51.100.1"));
        assert!(drops(sandbox, &veth, &daemon, "2001:db8:bad::7"));
        assert!(!drops(sandbox, &veth, &daemon, "198.51.100.30"));
    })
    .unwrap();
}

#[test]
fn a_feed_that_halves_or_doubles_is_held_until_it_is_confirmed() {
    require_root!();
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        let daemon = with_feed(sandbox, &hosts(0..20));
        for (range, entries, was, blocked, passes) in [(0..50, 50, 20, 10, 40), (0..20, 20, 50, 40, 60)] {
            let held = format!("198.51.100.{}", if entries > was { passes } else { blocked });
            let before = entries < was;
            rewrite(&daemon, &hosts(range));
            let feed = wait_for_feed(&daemon, |feed| feed.state == FeedState::Held);
            assert_eq!((feed.entries, feed.held.unwrap().entries), (was, entries), "the version before is in force");
            assert_eq!(drops(sandbox, &veth, &daemon, &held), before);
            let warnings = daemon.status().unwrap().warnings;
            assert!(warnings.iter().any(|warning| warning.contains("ftagent feeds confirm bad")), "{warnings:?}");
            daemon.ok(&["feeds", "confirm", "bad"]).unwrap();
            let feed = wait_for_feed(&daemon, |feed| feed.state == FeedState::Accepted);
            assert_eq!((feed.entries, feed.held), (entries, None));
            assert_eq!(drops(sandbox, &veth, &daemon, &held), !before, "what was confirmed is in force");
        }
        assert!(daemon.refused(&["feeds", "confirm", "bad"]).unwrap().contains("no version that waits"));
        assert!(daemon.refused(&["feeds", "confirm", "worse"]).unwrap().contains("the feeds are: bad"));
        rewrite(&daemon, &hosts(0..25));
        wait_for_feed(&daemon, |feed| feed.state == FeedState::Accepted && feed.entries == 25);
        assert!(drops(sandbox, &veth, &daemon, "198.51.100.24"), "a small change needs nobody");
    })
    .unwrap();
}

#[test]
fn a_feed_cannot_cut_the_host_off() {
    require_root!();
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        let text = "::/0\n0.0.0.0/0\n10.77.0.1\n10.77.0.2\n127.0.0.0/8\n198.51.100.0/24\n";
        let daemon = with_feed(sandbox, text);
        let feed = feed(&daemon);
        assert_eq!((feed.state, feed.entries, feed.report.refused), (FeedState::Accepted, 1, 5), "{feed:?}");
        let reasons = [
            "covers too much of the Internet",
            "covers too much of the Internet",
            "an address of this host",
            "the gateway of the default route",
            "loopback",
        ];
        for ((problem, reason), line) in feed.report.problems.iter().zip(reasons).zip(1..) {
            assert!(problem.line == line && problem.reason.contains(reason), "{problem:?}");
        }
        assert!(drops(sandbox, &veth, &daemon, "198.51.100.7"), "the rest is in force");
        for source in ["10.77.0.2", "192.0.2.7", "2001:db8::7"] {
            assert!(!drops(sandbox, &veth, &daemon, source), "{source}");
        }
    })
    .unwrap();
}

#[test]
fn a_feed_that_goes_away_stays_in_force() {
    require_root!();
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        let mut daemon = with_feed(sandbox, "198.51.100.0/24\n");
        fs::remove_file(daemon.path("bad.txt")).unwrap();
        let feed = wait_for_feed(&daemon, |feed| feed.state == FeedState::Missing);
        assert_eq!(feed.entries, 1);
        assert!(daemon.log().contains("The block list's file is gone"));
        assert!(drops(sandbox, &veth, &daemon, "198.51.100.7"));
        daemon.terminate().unwrap();
        daemon.launch(sandbox).unwrap();
        assert_eq!(wait_for_feed(&daemon, |feed| feed.state == FeedState::Missing).entries, 1);
        assert!(drops(sandbox, &veth, &daemon, "198.51.100.7"), "also after a restart");
        rewrite(&daemon, "this is a page of the login portal\n");
        let feed = wait_for_feed(&daemon, |feed| feed.state == FeedState::Failed);
        assert!(feed.error.unwrap().contains("line 1"));
        assert!(drops(sandbox, &veth, &daemon, "198.51.100.7"), "a page of something else is no empty list");
        rewrite(&daemon, "203.0.113.0/24\n");
        wait_for_feed(&daemon, |feed| feed.state == FeedState::Accepted);
        assert!(!drops(sandbox, &veth, &daemon, "198.51.100.7"));
        assert!(drops(sandbox, &veth, &daemon, "203.0.113.7"));
    })
    .unwrap();
}

/// Its file does not change again, so nothing but the failure itself could have it tried again.
#[test]
fn a_list_that_could_not_be_replaced_is_tried_again() {
    require_root!();
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        let mut daemon = Daemon::new(&["wan0"], "").unwrap();
        let (bad, other) = (daemon.path("bad.txt"), daemon.path("other.txt"));
        let sections = format!(
            "[services]\ndetect = false\n[feed]\nreload_interval = \"1s\"\n[[feeds]]\nname = \"bad\"\npath = {bad:?}\n\
             [[feeds]]\nname = \"other\"\npath = {other:?}\n"
        );
        daemon.configure(&sections).unwrap();
        fs::write(other, "203.0.113.7\n").unwrap();
        rewrite(&daemon, &hosts(0..5));
        daemon.launch(sandbox).unwrap();
        // The accepted copy of the other cannot be read: no whole set can be made.
        let copy = daemon.path("state/feeds/other.accepted");
        let aside = daemon.path("aside");
        fs::rename(&copy, &aside).unwrap();
        fs::create_dir(&copy).unwrap();
        rewrite(&daemon, &hosts(0..9));
        let warned = || daemon.status().unwrap().warnings.into_iter().find(|w| w.contains("cannot be replaced"));
        let warning = wait_for("the warning", PATIENCE, warned).unwrap();
        assert!(warning.contains("tried again every 1s"), "{warning}");
        assert!(!drops(sandbox, &veth, &daemon, "198.51.100.8") && drops(sandbox, &veth, &daemon, "198.51.100.3"));
        fs::remove_dir(&copy).unwrap();
        fs::rename(&aside, &copy).unwrap();
        wait_for("the lists to be in force", PATIENCE, || warned().is_none().then_some(())).unwrap();
        assert!(drops(sandbox, &veth, &daemon, "198.51.100.8") && drops(sandbox, &veth, &daemon, "203.0.113.7"));
    })
    .unwrap();
}
