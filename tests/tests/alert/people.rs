//! Who is told what, and when not.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use ftagent::{
    alert::{News, Post, Trouble},
    decide::{Incident, Severity, Vector},
};
use ftagent_tests::{
    daemon::wait_for,
    http::{Server, says},
};

use super::{PATIENCE, Place, body, hand, incident, over, sink, wait_done};

/// A stand-in of Slack that takes as much as it is sent, and a post with further lines for its sink.
fn slack(place: &Place, global: &str, lines: &str) -> (Server, Post) {
    let server = Server::start(|_, _| says(200, "ok"));
    let secret = place.secret("slack", &server.url("/x"));
    let post = place.post(&format!("{global}\n{}", sink("slack", &format!("{}\n{lines}", fast(&secret)))));
    (server, post)
}

/// The lines of a sink that takes as much as it is sent.
fn fast(secret: &Path) -> String {
    format!("secret = {secret:?}\nrate_per_minute = 60000")
}

/// An incident that is told apart by its title.
fn other(id: &str) -> Incident {
    Incident { vector: Vector::UdpFlood, vectors: vec![Vector::UdpFlood], ..incident(id) }
}

/// The same incident, at its end.
fn ended(incident: Incident) -> Incident {
    Incident { closed: over(&incident.id).closed, ..incident }
}

fn titles(server: &Server) -> Vec<String> {
    server.asked().iter().map(|asked| body(asked)["text"].as_str().unwrap().to_owned()).collect()
}

/// Waits for the last of these, and compares all that was told with the beginnings of titles. Whoever hands over what
/// is not to be told hands over something behind it that is: the one would have come before the other.
fn told(server: &Server, wanted: &[&str]) {
    let found = wait_titles(server, wanted.len());
    let same = found.len() == wanted.len() && found.iter().zip(wanted).all(|(title, wanted)| title.starts_with(wanted));
    assert!(same, "{found:#?}, not {wanted:#?}");
}

fn wait_titles(server: &Server, count: usize) -> Vec<String> {
    wait_for("messages", PATIENCE, || (titles(server).len() >= count).then(|| titles(server)))
        .unwrap_or_else(|error| panic!("{error}: {:#?}", titles(server)))
}

#[test]
fn a_sink_hears_of_what_is_bad_enough_and_from_the_beginning() {
    let place = Place::new();
    let (server, post) = slack(&place, "", "severity = \"critical\"");
    hand(&post, incident("i"));
    // For this sink it begins now.
    hand(&post, Incident { severity: Severity::Critical, ..incident("i") });
    hand(&post, over("i"));
    // What it was never told of is not over either.
    hand(&post, incident("j"));
    hand(&post, over("j"));
    hand(&post, Incident { severity: Severity::Critical, ..other("k") });
    let wanted =
        ["ATTACK on edge1: syn_flood, critical", "OVER: syn_flood on edge1", "ATTACK on edge1: udp_flood, critical"];
    told(&server, &wanted);
}

#[test]
fn changes_are_told_together_and_escalations_soon() {
    let place = Place::new();
    let (server, post) = slack(&place, "changed_interval = \"2s\"", "");
    hand(&post, incident("i"));
    wait_titles(&server, 1);
    for number in 0..50 {
        post.seen(Arc::new(incident("i")), Some(News::Changed(format!("change {number}"))));
    }
    let told = wait_titles(&server, 2);
    assert!(told[1].contains("change 49"), "{told:?}");
    let sent = body(&server.asked()[1]).to_string();
    assert!(sent.contains("and more before"), "fifty changes are one message: {sent}");
    let worse = Incident { severity: Severity::Critical, mitigated: Some(super::now(900)), ..incident("i") };
    hand(&post, worse.clone());
    let told = wait_titles(&server, 4);
    assert!(told[2].contains("is now critical") && told[3].contains("is mitigated"), "both, in order: {told:?}");
    // Nothing was left of them: what is told next is what is new.
    post.seen(Arc::new(worse), Some(News::Changed("one more".to_owned())));
    let told = wait_titles(&server, 5);
    assert!(told.len() == 5 && told[4].contains("one more"), "{told:?}");
    let sent = body(&server.asked()[4]).to_string();
    assert!(!sent.contains("and more before") && !sent.contains("change 49"), "{sent}");
}

#[test]
fn who_asked_for_one_kind_hears_of_it_whatever_else_is_told() {
    let place = Place::new();
    for (event, wanted) in [
        ("mitigated", ["syn_flood on edge1 is mitigated", "udp_flood on edge1 is mitigated"]),
        ("escalated", ["ESCALATED: syn_flood on edge1", "ESCALATED: udp_flood on edge1"]),
        ("changed", ["syn_flood on edge1, high: it is ", "udp_flood on edge1, high: it is "]),
    ] {
        let (server, post) = slack(&place, "changed_interval = \"1s\"", &format!("events = [{event:?}]"));
        for (about, count) in [(incident("i"), 1), (other("j"), 2)] {
            hand(&post, about.clone());
            post.seen(Arc::new(about.clone()), Some(News::Changed("it is worse".to_owned())));
            post.seen(Arc::new(about.clone()), Some(News::Escalated("it is asked for".to_owned())));
            hand(&post, Incident { mitigated: Some(super::now(900)), ..about });
            wait_titles(&server, count);
        }
        told(&server, &wanted);
        post.stop();
    }
}

#[test]
fn events_vectors_and_templates_are_the_sinks_own() {
    let place = Place::new();
    let lines = "events = [\"closed\"]\nvectors = [\"syn_flood\"]\ntitle = \"{severity} {vector} at {node} {{x}}\"\ntext = \"{duration}\"";
    let (server, post) = slack(&place, "", lines);
    hand(&post, incident("i"));
    post.health("test", vec![Trouble { key: "a".into(), severity: Severity::High, text: "t".into() }]);
    hand(&post, over("i"));
    hand(&post, other("j"));
    hand(&post, ended(other("j")));
    hand(&post, Incident { severity: Severity::Critical, ..incident("k") });
    hand(&post, Incident { severity: Severity::Critical, ..over("k") });
    told(&server, &["high syn_flood at edge1 {x}", "critical syn_flood at edge1 {x}"]);
    assert!(body(&server.asked()[0])["blocks"].to_string().contains("\"5.0 s\""));
}

#[test]
fn nobody_is_told_in_silence_and_what_goes_on_is_told_afterwards() {
    let place = Place::new();
    let (server, post) = slack(&place, "", "");
    hand(&post, incident("before"));
    hand(&post, other("last"));
    wait_done(&post, "delivered", 2);
    post.silence(None, Duration::from_secs(3600)).unwrap();
    post.stop();
    // It holds over a restart.
    let secret = place.secret("slack", &server.url("/x"));
    let post = place.post(&sink("slack", &fast(&secret)));
    assert!(post.status().silent_until_ms.is_some());
    hand(&post, incident("goes-on"));
    hand(&post, incident("short"));
    hand(&post, over("short"));
    // Who was told that it began is told that it is over.
    hand(&post, over("before"));
    hand(&post, ended(other("last")));
    let began = ["ATTACK on edge1: syn_flood", "ATTACK on edge1: udp_flood"];
    let in_silence = [&began[..], &["OVER: syn_flood", "OVER: udp_flood"]].concat();
    told(&server, &in_silence);
    assert!(post.silence(Some("other"), Duration::ZERO).is_err());
    post.silence(None, Duration::ZERO).unwrap();
    post.look(vec![Arc::new(incident("goes-on")), Arc::new(over("short"))], None);
    // What was over before is no news.
    hand(&post, other("next"));
    told(&server, &[&in_silence[..], &began].concat());
}

#[test]
fn nobody_is_told_in_maintenance() {
    let place = Place::new();
    let windows = "[[alerts.maintenance]]\nfrom = \"00:00\"\nto = \"00:00\"\nsinks = [\"s\"]\n";
    let server = Server::start(|_, _| says(200, "ok"));
    let secret = place.secret("slack", &server.url("/x"));
    let post = place.post(&format!("{}{windows}", sink("slack", &fast(&secret))));
    hand(&post, incident("i"));
    assert!(post.status().sinks[0].maintenance);
    // The window is taken out while the daemon runs: for the sink it begins then.
    post.reload(&place.config(&sink("slack", &fast(&secret))).alerts);
    post.look(vec![Arc::new(Incident { severity: Severity::Critical, ..incident("i") })], None);
    told(&server, &["ATTACK on edge1: syn_flood, critical"]);
}

#[test]
fn a_storm_is_one_message_to_people() {
    let place = Place::new();
    let down = Arc::new(AtomicBool::new(true));
    let state = Arc::clone(&down);
    let server = Server::start(move |_, _| if state.load(Relaxed) { says(503, "") } else { says(200, "ok") });
    let secret = place.secret("slack", &server.url("/x"));
    let post = place.post(&sink("slack", &fast(&secret)));
    for number in 0..40 {
        hand(&post, incident(&format!("i{number}")));
    }
    hand(&post, over("i0"));
    wait_for("all to wait", PATIENCE, || (post.status().waiting == 41).then_some(())).unwrap();
    let before = server.asked().len();
    down.store(false, Relaxed);
    wait_done(&post, "digested", 41);
    let told: Vec<String> = titles(&server).split_off(before).into_iter().collect();
    let wanted = "40 incidents on edge1: 39 going on (worst: high), 1 over; 41 alerts in one message";
    assert!(told.last().unwrap() == wanted, "{told:#?}");
}

#[test]
fn trouble_of_the_agent_is_told_once_and_when_it_is_over_after_a_restart_too() {
    let place = Place::new();
    let (server, post) = slack(&place, "", "");
    let trouble = Trouble { key: "wan0".into(), severity: Severity::Critical, text: "wan0 is NOT protected".into() };
    for _ in 0..5 {
        post.health("interface", vec![trouble.clone()]);
    }
    assert_eq!(wait_titles(&server, 1), ["ftagent on edge1 is in trouble: wan0 is NOT protected"]);
    wait_done(&post, "delivered", 1);
    post.stop();
    let secret = place.secret("slack", &server.url("/x"));
    let post = place.post(&sink("slack", &fast(&secret)));
    // It was told; something else was not.
    let more = Trouble { key: "wan1".into(), text: "wan1 is NOT protected".into(), ..trouble.clone() };
    post.health("interface", vec![trouble, more.clone()]);
    let both = ["ftagent on edge1 is in trouble: wan0 is NOT", "ftagent on edge1 is in trouble: wan1 is NOT"];
    told(&server, &both);
    post.health("interface", vec![more]);
    let over = "ftagent on edge1 is right again: it was that wan0 is NOT protected";
    told(&server, &[&both[..], &[over]].concat());
}

#[test]
fn what_ended_while_no_daemon_ran_is_told_to_be_over() {
    let place = Place::new();
    let (server, post) = slack(&place, "", "");
    hand(&post, incident("known"));
    hand(&post, incident("forgotten"));
    wait_done(&post, "delivered", 2);
    post.stop();
    let secret = place.secret("slack", &server.url("/x"));
    let post = place.post(&sink("slack", &fast(&secret)));
    post.look(vec![Arc::new(over("known"))], None);
    let told = wait_titles(&server, 4);
    assert!(told[2..].iter().any(|title| title.starts_with("OVER: syn_flood")), "{told:?}");
    assert!(told[2..].iter().any(|title| title.contains("nothing is known any more of forgotten")), "{told:?}");
}

#[test]
fn steps_upstream_are_told() {
    let place = Place::new();
    let (server, post) = slack(&place, "changed_interval = \"1s\"", "");
    hand(&post, incident("i"));
    wait_titles(&server, 1);
    post.upstream("i", vec!["FlowSpec announced: proto udp then drop".to_owned()]);
    post.seen(Arc::new(incident("i")), Some(News::Changed("a filter came".to_owned())));
    post.seen(Arc::new(incident("i")), Some(News::Escalated("flowspec: asked, the uplink is full in 20 s".to_owned())));
    let told = wait_titles(&server, 2);
    assert!(
        told[1].starts_with("ESCALATED: syn_flood on edge1, high: flowspec: asked, the uplink is full"),
        "{told:?}"
    );
    assert!(told[1].ends_with("; FlowSpec announced"), "{told:?}");
    let body = body(&server.asked()[1]).to_string();
    for line in ["Changed: a filter came", "Also: FlowSpec announced: proto udp then drop"] {
        assert!(body.contains(line), "{body}");
    }
    hand(&post, over("i"));
    wait_titles(&server, 3);
}
