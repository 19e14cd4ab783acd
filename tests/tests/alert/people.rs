//! Who is told what, and when not.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::sleep,
    time::Duration,
};

use ftagent::{
    alert::{News, Post, Trouble},
    decide::{Incident, Severity},
};
use ftagent_tests::{
    daemon::wait_for,
    stand_in::{StandIn, says},
};

use super::{PATIENCE, Place, hand, incident, over, sink, wait_done};

/// A stand-in of Slack, and a post with further lines for its sink.
fn slack(place: &Place, global: &str, lines: &str) -> (StandIn, Post) {
    let stand_in = StandIn::start(|_, _| says(200, "ok"));
    let secret = place.secret("slack", &stand_in.url("/x"));
    let post = place.post(&format!("{global}\n{}", sink("slack", &format!("secret = {secret:?}\n{lines}"))));
    (stand_in, post)
}

fn titles(stand_in: &StandIn) -> Vec<String> {
    stand_in.asked().iter().map(|asked| asked.json()["text"].as_str().unwrap().to_owned()).collect()
}

fn wait_titles(stand_in: &StandIn, count: usize) -> Vec<String> {
    wait_for("messages", PATIENCE, || (titles(stand_in).len() >= count).then(|| titles(stand_in)))
        .unwrap_or_else(|error| panic!("{error}: {:#?}", titles(stand_in)))
}

#[test]
fn a_sink_hears_of_what_is_bad_enough_and_from_the_beginning() {
    let place = Place::new();
    let (stand_in, post) = slack(&place, "", "severity = \"critical\"");
    hand(&post, incident("i"));
    sleep(Duration::from_millis(300));
    assert!(titles(&stand_in).is_empty());
    hand(&post, Incident { severity: Severity::Critical, ..incident("i") });
    let told = wait_titles(&stand_in, 1);
    assert!(told[0].starts_with("ATTACK on edge1: syn_flood, critical"), "for this sink it begins: {told:?}");
    hand(&post, over("i"));
    assert!(wait_titles(&stand_in, 2)[1].starts_with("OVER: syn_flood on edge1"));
    // What it was never told of is not over either.
    hand(&post, incident("j"));
    hand(&post, over("j"));
    sleep(Duration::from_millis(500));
    assert_eq!(titles(&stand_in).len(), 2);
}

#[test]
fn changes_are_told_together_and_escalations_soon() {
    let place = Place::new();
    let (stand_in, post) = slack(&place, "changed_interval = \"2s\"", "");
    hand(&post, incident("i"));
    wait_titles(&stand_in, 1);
    for number in 0..50 {
        post.seen(Arc::new(incident("i")), Some(News::Changed(format!("change {number}"))));
    }
    let told = wait_titles(&stand_in, 2);
    assert!(told[1].contains("change 49"), "{told:?}");
    let body = stand_in.asked()[1].json().to_string();
    assert!(body.contains("and more before"), "fifty changes are one message: {body}");
    hand(&post, Incident { severity: Severity::Critical, mitigated: Some(super::now(900)), ..incident("i") });
    let told = wait_titles(&stand_in, 4);
    assert!(told[2].contains("is now critical") && told[3].contains("is mitigated"), "both, in order: {told:?}");
    sleep(Duration::from_millis(500));
    assert_eq!(titles(&stand_in).len(), 4);
}

#[test]
fn who_asked_for_one_kind_hears_of_it_whatever_else_is_told() {
    let place = Place::new();
    let mitigated = |id: &str| Incident { mitigated: Some(super::now(900)), ..incident(id) };
    for (event, title) in [
        ("mitigated", "syn_flood on edge1 is mitigated"),
        ("escalated", "ESCALATED: syn_flood on edge1"),
        ("changed", "syn_flood on edge1, high: it is "),
    ] {
        let (stand_in, post) = slack(&place, "changed_interval = \"1s\"", &format!("events = [{event:?}]"));
        hand(&post, incident(event));
        post.seen(Arc::new(incident(event)), Some(News::Changed("it is worse".to_owned())));
        post.seen(Arc::new(incident(event)), Some(News::Escalated("it is asked for".to_owned())));
        hand(&post, mitigated(event));
        let told = wait_titles(&stand_in, 1);
        assert!(told[0].starts_with(title), "{event}: {told:?}");
        sleep(Duration::from_millis(500));
        assert_eq!(titles(&stand_in).len(), 1, "{event}: {:?}", titles(&stand_in));
        post.stop();
    }
}

#[test]
fn events_vectors_and_templates_are_the_sinks_own() {
    let place = Place::new();
    let lines = "events = [\"closed\"]\nvectors = [\"syn_flood\"]\ntitle = \"{severity} {vector} at {node} {{x}}\"\ntext = \"{duration}\"";
    let (stand_in, post) = slack(&place, "", lines);
    hand(&post, incident("i"));
    post.health("test", vec![Trouble { key: "a".into(), severity: Severity::High, text: "t".into() }]);
    hand(&post, over("i"));
    assert_eq!(wait_titles(&stand_in, 1), ["high syn_flood at edge1 {x}"]);
    assert!(stand_in.asked()[0].json()["blocks"].to_string().contains("\"5.0 s\""));
    let mut other = incident("j");
    other.vector = ftagent::decide::Vector::UdpFlood;
    other.vectors = vec![other.vector];
    hand(&post, Incident { closed: over("j").closed, ..other });
    sleep(Duration::from_millis(500));
    assert_eq!(titles(&stand_in).len(), 1);
}

#[test]
fn nobody_is_told_in_silence_and_what_goes_on_is_told_afterwards() {
    let place = Place::new();
    let (stand_in, post) = slack(&place, "", "");
    hand(&post, incident("before"));
    wait_done(&post, "delivered", 1);
    post.silence(None, Duration::from_secs(3600)).unwrap();
    post.stop();
    // It holds over a restart.
    let secret = place.secret("slack", &stand_in.url("/x"));
    let post = place.post(&sink("slack", &format!("secret = {secret:?}")));
    assert!(post.status().silent_until_ms.is_some());
    hand(&post, incident("goes-on"));
    hand(&post, incident("short"));
    hand(&post, over("short"));
    hand(&post, over("before"));
    assert!(wait_titles(&stand_in, 2)[1].starts_with("OVER"), "who was told it began is told that it is over");
    sleep(Duration::from_millis(300));
    assert_eq!(titles(&stand_in).len(), 2);
    assert!(post.silence(Some("other"), Duration::ZERO).is_err());
    post.silence(None, Duration::ZERO).unwrap();
    post.look(vec![Arc::new(incident("goes-on")), Arc::new(over("short"))], None);
    let told = wait_titles(&stand_in, 3);
    assert!(told[2].starts_with("ATTACK"), "{told:?}");
    sleep(Duration::from_millis(300));
    assert_eq!(titles(&stand_in).len(), 3, "what was over before is no news");
}

#[test]
fn nobody_is_told_in_maintenance() {
    let place = Place::new();
    let windows = "[[alerts.maintenance]]\nfrom = \"00:00\"\nto = \"00:00\"\nsinks = [\"s\"]\n";
    let stand_in = StandIn::start(|_, _| says(200, "ok"));
    let secret = place.secret("slack", &stand_in.url("/x"));
    let post = place.post(&format!("{}{windows}", sink("slack", &format!("secret = {secret:?}"))));
    hand(&post, incident("i"));
    sleep(Duration::from_millis(500));
    assert!(titles(&stand_in).is_empty() && post.status().sinks[0].maintenance);
    // The window is taken out while the daemon runs.
    post.reload(&place.config(&sink("slack", &format!("secret = {secret:?}"))).alerts);
    post.look(vec![Arc::new(incident("i"))], None);
    wait_titles(&stand_in, 1);
}

#[test]
fn a_storm_is_one_message_to_people() {
    let place = Place::new();
    let down = Arc::new(AtomicBool::new(true));
    let state = Arc::clone(&down);
    let stand_in = StandIn::start(move |_, _| if state.load(Relaxed) { says(503, "") } else { says(200, "ok") });
    let secret = place.secret("slack", &stand_in.url("/x"));
    let post = place.post(&sink("slack", &format!("secret = {secret:?}\nrate_per_minute = 60000")));
    for number in 0..40 {
        hand(&post, incident(&format!("i{number}")));
    }
    hand(&post, over("i0"));
    wait_for("all to wait", PATIENCE, || (post.status().waiting == 41).then_some(())).unwrap();
    let before = stand_in.asked().len();
    down.store(false, Relaxed);
    wait_done(&post, "digested", 41);
    let told: Vec<String> = titles(&stand_in).split_off(before).into_iter().collect();
    let wanted = "40 incidents on edge1: 39 going on (worst: high), 1 over; 41 alerts in one message";
    assert!(told.last().unwrap() == wanted, "{told:#?}");
}

#[test]
fn trouble_of_the_agent_is_told_once_and_when_it_is_over_after_a_restart_too() {
    let place = Place::new();
    let (stand_in, post) = slack(&place, "", "");
    let trouble = Trouble { key: "wan0".into(), severity: Severity::Critical, text: "wan0 is NOT protected".into() };
    for _ in 0..5 {
        post.health("interface", vec![trouble.clone()]);
    }
    assert_eq!(wait_titles(&stand_in, 1), ["ftagent on edge1 is in trouble: wan0 is NOT protected"]);
    wait_done(&post, "delivered", 1);
    post.stop();
    let secret = place.secret("slack", &stand_in.url("/x"));
    let post = place.post(&sink("slack", &format!("secret = {secret:?}")));
    post.health("interface", vec![trouble]);
    sleep(Duration::from_millis(1500));
    assert_eq!(titles(&stand_in).len(), 1, "it was told");
    post.health("interface", Vec::new());
    assert_eq!(wait_titles(&stand_in, 2)[1], "ftagent on edge1 is right again: it was that wan0 is NOT protected");
}

#[test]
fn what_ended_while_no_daemon_ran_is_told_to_be_over() {
    let place = Place::new();
    let (stand_in, post) = slack(&place, "", "");
    hand(&post, incident("known"));
    hand(&post, incident("forgotten"));
    wait_done(&post, "delivered", 2);
    post.stop();
    let secret = place.secret("slack", &stand_in.url("/x"));
    let post = place.post(&sink("slack", &format!("secret = {secret:?}")));
    post.look(vec![Arc::new(over("known"))], None);
    let told = wait_titles(&stand_in, 4);
    assert!(told[2..].iter().any(|title| title.starts_with("OVER: syn_flood")), "{told:?}");
    assert!(told[2..].iter().any(|title| title.contains("nothing is known any more of forgotten")), "{told:?}");
}

#[test]
fn steps_upstream_are_told() {
    let place = Place::new();
    let (stand_in, post) = slack(&place, "changed_interval = \"1s\"", "");
    hand(&post, incident("i"));
    wait_titles(&stand_in, 1);
    post.upstream("i", vec!["FlowSpec announced: proto udp then drop".to_owned()]);
    post.seen(Arc::new(incident("i")), Some(News::Changed("a filter came".to_owned())));
    post.seen(Arc::new(incident("i")), Some(News::Escalated("flowspec: asked, the uplink is full in 20 s".to_owned())));
    let told = wait_titles(&stand_in, 2);
    assert!(
        told[1].starts_with("ESCALATED: syn_flood on edge1, high: flowspec: asked, the uplink is full"),
        "{told:?}"
    );
    assert!(told[1].ends_with("; FlowSpec announced"), "{told:?}");
    let body = stand_in.asked()[1].json().to_string();
    for line in ["Changed: a filter came", "Also: FlowSpec announced: proto udp then drop"] {
        assert!(body.contains(line), "{body}");
    }
    hand(&post, over("i"));
    wait_titles(&stand_in, 3);
}
