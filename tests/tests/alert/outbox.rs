//! Nothing is lost and nothing comes out of order, whatever fails.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::sleep,
    time::Duration,
};

use ftagent_tests::{
    daemon::wait_for,
    http::{Reply, Server, says},
    require_root,
    sandbox::Sandbox,
};

use ftagent::{
    alert::{
        Alert, Post,
        log::{self, Record},
    },
    record::audit::AuditLog,
};

use super::{PATIENCE, Place, body, hand, incident, over, sink, wait_done};

/// A webhook's secret for a stand-in.
fn hook(place: &Place, name: &str, server: &Server) -> String {
    let text = format!("url = {}\nsecret = whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n", server.url("/hook"));
    format!("secret = {:?}", place.secret(name, &text))
}

/// What arrived: the kinds of messages of each topic, in order, and how often each message came.
fn arrived(server: &Server, taken: impl Fn(usize) -> bool) -> (BTreeMap<String, Vec<String>>, BTreeMap<String, u32>) {
    let (mut topics, mut times): (BTreeMap<String, Vec<String>>, BTreeMap<String, u32>) = Default::default();
    for (number, asked) in server.asked().iter().enumerate().filter(|(number, _)| taken(*number)) {
        let body = body(asked);
        let text = |key: &str| body["data"][key].as_str().unwrap_or_else(|| panic!("{number}")).to_owned();
        topics.entry(text("topic")).or_default().push(text("kind"));
        *times.entry(asked.header("webhook-id").unwrap().to_owned()).or_default() += 1;
    }
    (topics, times)
}

#[test]
fn ten_thousand_alerts_through_a_sink_that_fails_half_the_time_arrive_once_and_in_order() {
    let place = Place::new();
    // Which tries fail is drawn by a simple generator; the start is the same each time.
    let fails = |number: usize| (number as u64).wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1) >> 63 == 1;
    let server = Server::start(move |number, _| match number {
        _ if !fails(number) => says(200, ""),
        _ if number.is_multiple_of(50) => Reply::Reset,
        _ if number.is_multiple_of(2) => says(503, ""),
        _ => says(429, ""),
    });
    let sections = format!("max_entries = 20000\n{}", sink("webhook", &hook(&place, "hook", &server)));
    let mut post = place.post(&sections);
    for number in 0..5000 {
        hand(&post, incident(&format!("i{number}")));
        hand(&post, over(&format!("i{number}")));
        if number == 2500 {
            // A restart in between.
            post.stop();
            post = place.post(&sections);
        }
    }
    let done = || {
        let status = post.status();
        (status.waiting == 0).then_some(())
    };
    wait_for("everything to arrive", Duration::from_secs(120), done).unwrap();
    post.stop();
    let (topics, times) = arrived(&server, |number| !fails(number));
    assert_eq!(topics.len(), 5000);
    assert!(topics.values().all(|kinds| kinds == &["opened", "closed"]), "in order");
    assert_eq!(times.len(), 10_000);
    assert!(times.values().all(|times| *times == 1), "once");
    let tried = server.asked().len();
    assert!(tried > 15_000, "it did fail: {tried}");
}

#[test]
fn a_sink_that_hangs_delays_only_itself() {
    let place = Place::new();
    let slow = Server::start(|_, _| Reply::Stall(Duration::from_secs(30)));
    let well = Server::start(|_, _| says(200, ""));
    let sections = format!(
        "[[alerts.sinks]]\nname = \"a\"\nkind = \"webhook\"\n{}\ntimeout = \"1s\"\n[[alerts.sinks]]\nname = \"b\"\nkind = \"webhook\"\n{}\n",
        hook(&place, "slow", &slow),
        hook(&place, "well", &well)
    );
    let post = place.post(&sections);
    for number in 0..20 {
        hand(&post, incident(&format!("i{number}")));
    }
    wait_for("the other", PATIENCE, || (well.asked().len() == 20).then_some(())).unwrap();
    let status = post.status();
    assert_eq!((status.sinks[0].waiting, status.sinks[1].waiting), (20, 0));
    wait_for("trouble", PATIENCE, || post.status().sinks[0].trouble.clone()).unwrap();
    // It is asked about the first again and again: nothing overtakes that.
    let (topics, times) = arrived(&slow, |_| true);
    assert!(topics.keys().eq(["i0"]) && times.len() == 1, "{topics:?} {times:?}");
}

#[test]
fn what_waits_for_too_long_is_given_up_and_told() {
    let place = Place::new();
    let server = Server::start(|_, _| says(503, ""));
    let sections = format!("give_up_after = \"1s\"\n{}", sink("webhook", &hook(&place, "hook", &server)));
    let post = place.post(&sections);
    hand(&post, incident("i"));
    wait_done(&post, "given_up", 1);
    let history = post.history();
    assert!(history[0].answer.contains("could not be delivered for 1s: 503"), "{history:?}");
    assert_eq!(post.status().waiting, 0);
}

#[test]
fn more_than_may_wait_leaves_the_least_important_out() {
    let place = Place::new();
    let down = Arc::new(AtomicBool::new(true));
    let state = Arc::clone(&down);
    let server = Server::start(move |_, _| says(if state.load(Relaxed) { 503 } else { 200 }, ""));
    let post = place.post(&format!("max_entries = 100\n{}", sink("webhook", &hook(&place, "hook", &server))));
    for number in 0..150 {
        hand(&post, incident(&format!("i{number:03}")));
    }
    wait_done(&post, "crowded", 50);
    assert_eq!(post.status().waiting, 100);
    down.store(false, Relaxed);
    wait_done(&post, "delivered", 100);
}

#[test]
fn what_was_not_delivered_outlives_the_daemon_and_a_sink_that_is_gone_is_dropped() {
    let place = Place::new();
    let server = Server::start(|_, _| says(503, ""));
    let sections = sink("webhook", &hook(&place, "hook", &server));
    let post = place.post(&sections);
    hand(&post, incident("i"));
    hand(&post, over("i"));
    wait_for("two to wait", PATIENCE, || (post.status().waiting == 2).then_some(())).unwrap();
    post.stop();
    let well = Server::start(|_, _| says(200, ""));
    let post = place.post(&sink("webhook", &hook(&place, "hook", &well)));
    wait_done(&post, "delivered", 2);
    assert_eq!(arrived(&well, |_| true).0["i"], ["opened", "closed"]);
    hand(&post, incident("j"));
    wait_done(&post, "delivered", 3);
    // The configuration changes while it runs: what waits for a sink that is gone waits for nobody.
    post.reload(&place.config(&sink("webhook", &hook(&place, "down", &server))).alerts);
    hand(&post, over("j"));
    wait_for("one to wait", PATIENCE, || (post.status().waiting == 1).then_some(())).unwrap();
    post.reload(&place.config("").alerts);
    wait_for("none to wait", PATIENCE, || (post.status().waiting == 0).then_some(())).unwrap();
    assert_eq!(post.history().last().unwrap().how.as_str(), "dropped");
}

#[test]
fn what_an_old_clock_wrote_is_sent_and_not_given_up() {
    let place = Place::new();
    let server = Server::start(|_, _| says(503, ""));
    let post = place.post(&sink("webhook", &hook(&place, "hook", &server)));
    hand(&post, incident("i"));
    wait_for("one to wait", PATIENCE, || (post.status().waiting == 1).then_some(())).unwrap();
    post.stop();
    // The machine began in 1970, wrote this, and was told the time before it started anew.
    let path = place.state().join("outbox/log");
    let found = fs::read_to_string(&path).unwrap();
    let old = found.lines().map(|line| {
        let mut record: Record<Alert> = serde_json::from_str(line.split_once(' ').unwrap().1).unwrap();
        if let Record::Put { alert, .. } = &mut record {
            alert.at_ms = 5000;
        }
        log::line(&record).unwrap()
    });
    fs::write(&path, old.collect::<String>()).unwrap();
    let well = Server::start(|_, _| says(200, ""));
    let post = place.post(&sink("webhook", &hook(&place, "hook", &well)));
    wait_done(&post, "delivered", 1);
    assert_eq!(arrived(&well, |_| true).0["i"], ["opened"]);
}

#[test]
fn a_damaged_line_costs_itself_and_is_told() {
    let place = Place::new();
    let server = Server::start(|_, _| says(503, ""));
    let sections = sink("webhook", &hook(&place, "hook", &server));
    let post = place.post(&sections);
    for id in ["i", "j", "k"] {
        hand(&post, incident(id));
    }
    wait_for("three to wait", PATIENCE, || (post.status().waiting == 3).then_some(())).unwrap();
    post.stop();
    let path = place.state().join("outbox/log");
    let found = fs::read_to_string(&path).unwrap();
    // A digit flips in the middle, and the last line is cut short.
    let flipped = |line: &str| match line.contains("\"put\"") {
        true => line.replace("\"topic\":\"j\"", "\"topic\":\"x\""),
        false => line.to_owned(),
    };
    let text: String = found.split_inclusive('\n').map(flipped).collect();
    fs::write(&path, &text[..text.len() - 10]).unwrap();
    let config = place.config(&sections);
    let audit = AuditLog::start(place.state(), &config.audit, || ()).unwrap();
    let (post, told) = Post::start(place.state(), &config.alerts, audit).unwrap();
    let told = told.unwrap();
    assert!(told.contains("outbox/log") && told.contains("1 lines that make no sense"), "{told}");
    assert_eq!(post.status().waiting, 1, "what is whole is there");
    post.stop();
}

#[test]
fn a_full_disk_is_said_and_nothing_is_lost_meanwhile() {
    require_root!();
    Sandbox::run(|sandbox| {
        let place = Place::new();
        let disk = place.state().join("disk");
        fs::create_dir(&disk).unwrap();
        sandbox.command(&format!("mount -t tmpfs -o size=2m tmpfs {}", disk.display())).unwrap();
        let down = Arc::new(AtomicBool::new(true));
        let state = Arc::clone(&down);
        let server = Server::start(move |_, _| says(if state.load(Relaxed) { 503 } else { 200 }, ""));
        let config = place.config(&sink("webhook", &hook(&place, "hook", &server)));
        let start = || {
            let log = AuditLog::start(&disk, &config.audit, || ()).unwrap();
            Post::start(&disk, &config.alerts, log).unwrap().0
        };
        let post = start();
        // Something else fills the disk.
        let ballast = disk.join("ballast");
        assert!(fs::write(&ballast, vec![1; 4 << 20]).is_err());
        for number in 0..200 {
            hand(&post, incident(&format!("i{number}")));
        }
        let said = wait_for("it to be said", PATIENCE, || post.status().disk).unwrap();
        assert!(said.contains("No space left") && said.contains("paths.state"), "{said}");
        wait_for("all of it to wait in memory", PATIENCE, || (post.status().waiting == 200).then_some(())).unwrap();
        // The sink is back, the disk is not: alerts go on.
        down.store(false, Relaxed);
        wait_done(&post, "delivered", 200);
        assert!(post.status().disk.is_some());
        fs::remove_file(&ballast).unwrap();
        wait_for("the disk to be well", PATIENCE, || post.status().disk.is_none().then_some(())).unwrap();
        post.stop();
        let post = start();
        assert_eq!(post.status().waiting, 0);
        sleep(Duration::from_millis(300));
        let (topics, times) = arrived(&server, |_| true);
        assert_eq!(topics.len(), 200);
        let taken: BTreeSet<&String> = times.keys().collect();
        assert_eq!(taken.len(), 200, "nothing was sent under another name");
        post.stop();
    })
    .unwrap();
}
