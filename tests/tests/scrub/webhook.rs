//! What only the webhook has: ids that stay the same where a message is sent again, and a receiver that may refuse.

use ftagent::decide::ladder::Standing;
use ftagent_tests::provider::{Fault, When};
use serde_json::{Value, json};

use crate::{
    providers::{SECRET, hook},
    rig::{Parts, Rig},
};

#[test]
fn a_message_whose_answer_was_lost_is_sent_again_under_the_same_id() {
    let (peer, parts) = hook();
    let mut rig = Rig::with("hook", parts);
    peer.stand_in.fail(When::Change, Fault::Reset);
    rig.until_present();
    let ids = |rig: &Rig| -> Vec<String> {
        let changes = rig.peer.requests().into_iter().filter(|request| {
            let kind = request.json().unwrap()["type"].clone();
            kind == "ftagent.ask" || kind == "ftagent.take-back"
        });
        changes.map(|request| request.header("webhook-id").unwrap().to_owned()).collect()
    };
    let first = ids(&rig);
    assert_eq!(first.len(), 2);
    assert_eq!(first[0], first[1]);
    rig.until_gone();
    // The same thing another time is another message, about the same key.
    rig.until_present();
    let all = ids(&rig);
    assert_eq!(all.len(), 4, "{all:?}");
    assert!(all[3] != all[0] && all[3].starts_with("ask_") && all[2].starts_with("back_"), "{all:?}");
    assert_eq!(all[3].rsplit_once('_').unwrap().0, all[0].rsplit_once('_').unwrap().0);
}

#[test]
fn the_message_says_what_why_and_for_which_incident() {
    let (peer, parts) = hook();
    let mut rig = Rig::with("hook", parts);
    rig.look(true);
    let ask = peer.stand_in.requests().into_iter().map(|request| request.json().unwrap());
    let ask: Value = ask.into_iter().find(|body| body["type"] == "ftagent.ask").unwrap();
    let data = &ask["data"];
    assert_eq!((&data["kind"], &data["prefix"]), (&"divert".into(), &"203.0.113.0/24".into()));
    assert_eq!((&data["incident"], &data["plane"]), (&"i-1".into(), &"hook".into()));
    assert_eq!(data["reason"], "the uplink is full");
}

#[test]
fn a_receiver_that_refuses_is_believed() {
    let (peer, parts) = hook();
    peer.stand_in.with(|webhook| webhook.refuses = Some("not this prefix".to_owned()));
    let mut rig = Rig::with("hook", parts);
    let standing = rig.look(true);
    assert!(matches!(&standing, Standing::Refused(why) if why.contains("not this prefix")), "{standing:?}");
    let asked = rig.acts().len();
    rig.look(true);
    assert_eq!(rig.acts().len(), asked);
}

#[test]
fn while_secrets_are_exchanged_both_sign() {
    let (_peer, parts) = hook();
    let other = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let credentials = format!("secret = {other}\nprevious_secret = {SECRET}\n");
    let mut rig = Rig::with("hook", Parts { credentials, ..parts });
    rig.until_present();
    rig.until_gone();
}

#[test]
fn rules_and_black_holes_go_over_it_where_the_configuration_says_so() {
    let rows = [
        ("filter udp sport 123 dst 203.0.113.5", "203.0.113.5/32", json!("udp dst 203.0.113.5/32 sport 123")),
        ("black-hole 203.0.113.5/32", "203.0.113.5/32", Value::Null),
        ("source-black-hole 198.51.100.7/32", "198.51.100.7/32", Value::Null),
    ];
    for (what, prefix, matches) in rows {
        let (peer, parts) = hook();
        let config = format!("{}takes = [\"filter\", \"black-hole\", \"source-black-hole\"]\n", parts.config);
        let mut rig = Rig::with("hook", Parts { config, ..parts });
        rig.about(what);
        rig.until_present();
        let asks = peer.stand_in.requests().into_iter().map(|request| request.json().unwrap());
        let ask = asks.into_iter().find(|body| body["type"] == "ftagent.ask").unwrap();
        let data = &ask["data"];
        assert_eq!((&data["prefix"], &data["match"]), (&json!(prefix), &matches), "{what}");
        rig.until_gone();
    }
}
