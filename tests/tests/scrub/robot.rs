//! What only Hetzner Robot has: a list that is replaced as a whole, with the operator's rules in it.

use ftagent::decide::ladder::Standing;
use ftagent_tests::{
    http::Response,
    provider::{Fault, When, robot::rule},
};
use serde_json::{Value, json};

use crate::{
    providers::{hetzner, own_rule, what},
    rig::Rig,
};

fn own(count: usize) -> Vec<Value> {
    (0..count).map(|i| own_rule(&format!("own & proper {i}"), &format!("{}-{}", 1000 + i, 2000 + i))).collect()
}

#[test]
fn ours_go_in_front_and_the_operators_stay_as_they_are() {
    let (peer, parts) = hetzner();
    let flags = rule(&[("name", "return"), ("tcp_flags", "ack|rst"), ("protocol", "tcp"), ("action", "accept")]);
    let input: Vec<Value> = [own(3), vec![flags]].concat();
    let output = peer.stand_in.with(|robot| {
        robot.input.clone_from(&input);
        robot.output.clone()
    });
    let mut rig = Rig::with("robot", parts);
    rig.about("filter udp sport 123,1900-1910 src 198.51.100.0/24 dst 203.0.113.5");
    rig.until_present();
    peer.stand_in.with(|robot| {
        assert_eq!(&robot.input[2..], input, "{:#?}", robot.input);
        assert_eq!(robot.output, output);
        let ports: Vec<&Value> = robot.input.iter().take(2).map(|rule| &rule["src_port"]).collect();
        assert_eq!(ports, ["123", "1900-1910"]);
        assert_eq!(robot.input[0]["src_ip"], "198.51.100.0/24");
        assert!(robot.input[0]["name"].as_str().unwrap().starts_with("ftagent "));
    });
    rig.until_gone();
    peer.stand_in.with(|robot| assert_eq!(robot.input, input));
}

#[test]
fn what_does_not_fit_is_refused_and_the_rest_is_done() {
    let (peer, parts) = hetzner();
    peer.stand_in.with(|robot| robot.input = own(8));
    let mut rig = Rig::with("robot", parts);
    let wanted: Vec<_> =
        [123, 53, 1900].iter().map(|port| what(&format!("filter udp sport {port} dst 203.0.113.5"))).collect();
    for round in 0.. {
        let report = rig.report_of(&wanted);
        let is = |i: usize| &report.steps[i].1;
        if let (Standing::Present, Standing::Present, Standing::Refused(why)) = (is(0), is(1), is(2)) {
            assert!(why.contains("room for 10"), "{why}");
            break;
        }
        assert!(round < 100, "{report:?}");
        rig.rest();
    }
    peer.stand_in.with(|robot| assert_eq!(&robot.input[2..], own(8)));
    rig.until_gone();
}

#[test]
fn a_change_that_is_half_done_is_noticed_and_made_whole() {
    let (peer, parts) = hetzner();
    peer.stand_in.with(|robot| robot.half = 1);
    let mut rig = Rig::with("robot", parts);
    rig.about("filter udp sport 123,1900 dst 203.0.113.5");
    let told = rig.until(|standing| !matches!(standing, Standing::Asked));
    assert!(matches!(&told, Standing::Failed(why) if why.contains("said yes")), "{told:?}");
    rig.until_present();
    peer.stand_in.with(|robot| assert_eq!(robot.input.len(), 3, "{:#?}", robot.input));
    rig.until_gone();
    peer.stand_in.with(|robot| assert_eq!(robot.input.len(), 1, "only the operator's is left"));
}

#[test]
fn a_firewall_that_is_off_is_not_switched_on() {
    let (peer, parts) = hetzner();
    peer.stand_in.with(|robot| robot.status = "disabled".to_owned());
    let mut rig = Rig::with("robot", parts);
    let standing = rig.look(true);
    assert!(matches!(&standing, Standing::Refused(why) if why.contains("is off")), "{standing:?}");
    assert!(peer.stand_in.requests().iter().all(|request| request.method == "GET"));
}

#[test]
fn a_field_that_is_not_known_is_not_lost() {
    let (peer, parts) = hetzner();
    peer.stand_in.with(|robot| robot.input[0]["geo"] = json!("DE"));
    let mut rig = Rig::with("robot", parts);
    let standing = rig.look(true);
    assert!(matches!(&standing, Standing::Refused(why) if why.contains("\"geo\"")), "{standing:?}");
}

#[test]
fn its_limit_of_requests_is_waited_for_although_it_looks_like_a_refusal() {
    let (peer, parts) = hetzner();
    let mut rig = Rig::with("robot", parts);
    rig.report(false);
    let error = json!({ "error": { "status": 403, "code": "RATE_LIMIT_EXCEEDED", "message": "rate limit exceeded",
                                   "max_request": 200, "interval": 1 } });
    peer.stand_in.fail(When::Any, Fault::Answer(Response::json(403, &error)));
    let standing = rig.look(true);
    assert!(matches!(&standing, Standing::Failed(why) if why.contains("no more requests")), "{standing:?}");
    let asked = peer.stand_in.requests().len();
    rig.look(true);
    assert_eq!(peer.stand_in.requests().len(), asked);
    rig.until_present();
    rig.until_gone();
}

#[test]
fn without_the_journal_ours_are_known_by_their_names() {
    let (peer, parts) = hetzner();
    let mut rig = Rig::with("robot", parts);
    rig.until_present();
    rig.spoil_journal(None);
    rig.restart();
    rig.until_gone();
    peer.stand_in.with(|robot| assert_eq!(robot.input.len(), 1, "only the operator's is left"));
}

#[test]
fn a_wrong_login_is_tried_once() {
    let (peer, parts) = hetzner();
    let mut rig = Rig::with("robot", parts);
    rig.swap_credentials("user = ftagent\npassword = wrong-password\n");
    rig.restart();
    (0..10).for_each(|_| drop(rig.look(true)));
    assert_eq!(peer.stand_in.with(|robot| robot.bad_logins), 1, "three lock the address out");
}
