//! What each service is sent, and what its answers mean.

use std::time::Duration;

use ftagent::alert::sinks::webhook::Key;
use ftagent_tests::{
    daemon::wait_for,
    stand_in::{Answer, Asked, StandIn, says},
};
use serde_json::{Value, json};

use super::{Place, hand, incident, over, sink, wait_done};

const ID: &str = "20260801T120000Z-1";
const WEBHOOK_KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// Characters of a JSON string.
fn length(value: &Value) -> usize {
    value.as_str().unwrap().chars().count()
}

/// A service as its documentation has it.
struct Service {
    kind: &'static str,
    /// What is in the secret; `URL` stands for the stand-in's address.
    secret: &'static str,
    lines: &'static str,
    /// What says that all is well.
    well: fn() -> Answer,
    /// Whether a request is right.
    check: fn(&Asked),
    /// Answers to the first try: why an alert must be tried again …
    later: &'static [(u16, &'static str)],
    /// … why it must not …
    never: &'static [(u16, &'static str)],
    /// … and why nothing gets through.
    shut: &'static [(u16, &'static str)],
}

const SERVICES: &[Service] = &[
    Service {
        kind: "slack",
        secret: "URL/services/T000/B000/xyzzySecret",
        lines: "",
        well: || says(200, "ok"),
        check: slack,
        later: &[(429, ""), (500, "rollup_error"), (503, ""), (200, "<html>portal</html>")],
        never: &[(400, "invalid_blocks"), (400, "invalid_payload"), (400, "too_many_attachments")],
        shut: &[(403, "action_prohibited"), (404, "no_service"), (410, "channel_is_archived"), (400, "no_team")],
    },
    Service {
        kind: "discord",
        secret: "URL/api/webhooks/123/xyzzySecret",
        lines: "",
        well: || says(200, "{\"id\":\"99\"}"),
        check: discord,
        later: &[(429, "{\"retry_after\":0.01,\"global\":false}"), (502, "")],
        never: &[(400, "{\"code\":50035,\"message\":\"Invalid Form Body\"}")],
        shut: &[(401, ""), (404, "{\"code\":10015,\"message\":\"Unknown Webhook\"}")],
    },
    Service {
        kind: "teams",
        secret: "URL/workflows/1/triggers/manual/paths/invoke?sig=xyzzySecret",
        lines: "",
        well: || says(202, ""),
        check: teams,
        later: &[(429, ""), (504, "")],
        never: &[(400, "bad card"), (413, "")],
        shut: &[(401, "{\"error\":{\"code\":\"DirectApiAuthorizationRequired\"}}"), (404, "")],
    },
    Service {
        kind: "pagerduty",
        secret: "xyzzySecretxyzzySecretxyzzySecre",
        lines: "url = \"URL/v2/enqueue\"",
        well: || says(202, "{\"status\":\"success\",\"message\":\"Event processed\",\"dedup_key\":\"k\"}"),
        check: pagerduty,
        later: &[(429, ""), (500, ""), (200, "portal")],
        never: &[(400, "{\"status\":\"invalid event\",\"errors\":[\"'payload.summary' is missing\"]}")],
        shut: &[(400, "{\"errors\":[\"'routing_key' is invalid\"]}"), (403, "")],
    },
    Service {
        kind: "opsgenie",
        secret: "xyzzySecret-0000",
        lines: "url = \"URL/v2/alerts\"\nteams = [\"NOC\"]",
        well: || says(202, "{\"result\":\"Request will be processed\",\"took\":0.1,\"requestId\":\"r\"}"),
        check: opsgenie,
        later: &[(429, ""), (503, "")],
        never: &[(422, "{\"message\":\"Request body is not processable\"}"), (400, "")],
        shut: &[(401, "{\"message\":\"Could not authenticate\"}"), (403, "")],
    },
    Service {
        kind: "telegram",
        secret: "123456:xyzzySecret_-x",
        lines: "url = \"URL\"\nchat = \"-1001234567890\"",
        well: || says(200, "{\"ok\":true,\"result\":{\"message_id\":7}}"),
        check: telegram,
        later: &[
            (429, "{\"ok\":false,\"error_code\":429,\"parameters\":{\"retry_after\":0}}"),
            (502, ""),
            (200, "portal"),
        ],
        never: &[(400, "{\"ok\":false,\"error_code\":400,\"description\":\"Bad Request: can't parse entities\"}")],
        shut: &[
            (401, "{\"ok\":false,\"error_code\":401,\"description\":\"Unauthorized\"}"),
            (400, "{\"ok\":false,\"error_code\":400,\"description\":\"Bad Request: chat not found\"}"),
        ],
    },
    Service {
        kind: "alertmanager",
        secret: "Bearer xyzzySecret",
        lines: "url = \"URL\"",
        well: || says(200, ""),
        check: alertmanager,
        later: &[(500, ""), (503, "")],
        never: &[(400, "\"invalid label set: invalid name\"")],
        shut: &[(401, ""), (404, "")],
    },
    Service {
        kind: "webhook",
        secret: "url = URL/hook?token=xyzzySecret\nsecret = whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n",
        lines: "",
        well: || says(204, ""),
        check: webhook,
        later: &[(429, ""), (502, ""), (504, "")],
        never: &[(400, ""), (422, "")],
        shut: &[(410, ""), (401, ""), (302, "")],
    },
];

fn slack(asked: &Asked) {
    assert_eq!(asked.path, "/services/T000/B000/xyzzySecret");
    let body = asked.json();
    assert!((1..=4000).contains(&length(&body["text"])));
    let blocks = body["blocks"].as_array().unwrap();
    assert!(blocks.len() <= 50);
    for block in blocks {
        let texts = block["fields"].as_array().cloned().unwrap_or_default();
        assert!(texts.len() <= 10 && texts.iter().all(|text| length(&text["text"]) <= 2000));
        if block["type"] == "section" && block.get("text").is_some() {
            let text = block["text"]["text"].as_str().unwrap();
            assert!(!text.is_empty() && text.chars().count() <= 3000);
            assert!(!text.contains("<b>") && !text.contains("& "), "what is not ours is escaped: {text}");
        }
    }
}

fn discord(asked: &Asked) {
    assert_eq!(asked.path, "/api/webhooks/123/xyzzySecret?wait=true");
    let body = asked.json();
    assert_eq!(body["allowed_mentions"], json!({ "parse": [] }));
    let embed = &body["embeds"][0];
    let fields = embed["fields"].as_array().unwrap();
    assert!(length(&embed["title"]) <= 256 && length(&embed["description"]) <= 4096 && fields.len() <= 25);
    let each = |field: &Value| {
        let (name, value) = (length(&field["name"]), length(&field["value"]));
        assert!((1..=256).contains(&name) && (1..=1024).contains(&value));
        name + value
    };
    let all: usize = fields.iter().map(each).sum();
    let rest = length(&embed["title"]) + length(&embed["description"]) + length(&embed["footer"]["text"]);
    assert!(all + rest <= 6000);
    assert!(!embed["description"].as_str().unwrap().contains(" @everyone"));
}

fn teams(asked: &Asked) {
    assert_eq!(asked.path, "/workflows/1/triggers/manual/paths/invoke?sig=xyzzySecret");
    assert!(asked.body.len() <= 28 * 1024);
    let body = asked.json();
    let attachment = &body["attachments"][0];
    assert_eq!((&body["type"], &attachment["contentUrl"]), (&json!("message"), &Value::Null));
    assert_eq!(attachment["contentType"], "application/vnd.microsoft.card.adaptive");
    let card = &attachment["content"];
    assert_eq!((&card["type"], &card["version"]), (&json!("AdaptiveCard"), &json!("1.4")));
    assert!(card["body"].as_array().unwrap().iter().filter(|b| b["type"] == "TextBlock").all(|b| b["wrap"] == true));
}

fn pagerduty(asked: &Asked) {
    assert_eq!(asked.path, "/v2/enqueue");
    let body = asked.json();
    assert_eq!(body["routing_key"].as_str().unwrap().len(), 32);
    assert_eq!(body["dedup_key"], format!("ftagent/edge1/{ID}"));
    match body["event_action"].as_str().unwrap() {
        "trigger" => {
            let payload = &body["payload"];
            assert!((1..=1024).contains(&length(&payload["summary"])) && payload["source"] == "edge1");
            assert!(["critical", "error", "warning", "info"].contains(&payload["severity"].as_str().unwrap()));
            assert!(payload["custom_details"].is_object());
        }
        "resolve" => assert!(body.get("payload").is_none()),
        other => panic!("{other}"),
    }
}

fn opsgenie(asked: &Asked) {
    assert_eq!(asked.header("authorization"), Some("GenieKey xyzzySecret-0000"));
    let body = asked.json();
    if asked.path == format!("/v2/alerts/ftagent%2Fedge1%2F{ID}/close?identifierType=alias") {
        assert!(body["note"].as_str().unwrap().starts_with("OVER"));
        return;
    }
    assert_eq!(asked.path, "/v2/alerts");
    assert!((1..=130).contains(&length(&body["message"])) && length(&body["description"]) <= 15_000);
    assert_eq!(body["alias"], format!("ftagent/edge1/{ID}"));
    assert_eq!((&body["priority"], &body["responders"]), (&json!("P2"), &json!([{ "name": "NOC", "type": "team" }])));
    let tags = body["tags"].as_array().unwrap();
    assert!(tags.len() <= 20 && tags.iter().all(|tag| length(tag) <= 50));
    assert!(body["details"].as_object().unwrap().values().all(Value::is_string));
}

fn telegram(asked: &Asked) {
    assert_eq!(asked.path, "/bot123456:xyzzySecret_-x/sendMessage");
    let body = asked.json();
    assert_eq!((&body["chat_id"], &body["parse_mode"]), (&json!(-1_001_234_567_890_i64), &json!("HTML")));
    let text = body["text"].as_str().unwrap();
    let plain = text.replace("<b>", "").replace("</b>", "");
    assert!(!plain.contains(['<', '>']), "{plain}");
    assert!(plain.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&").chars().count() <= 4096);
}

fn alertmanager(asked: &Asked) {
    assert_eq!((asked.path.as_str(), asked.header("authorization")), ("/api/v2/alerts", Some("Bearer xyzzySecret")));
    for alert in asked.json().as_array().unwrap() {
        let labels = alert["labels"].as_object().unwrap();
        assert_eq!((&labels["alertname"], &labels["incident"]), (&json!("FtagentAttack"), &json!(ID)));
        assert!(labels.keys().all(|name| name.chars().all(|c| c.is_ascii_lowercase())));
        assert!(alert["startsAt"].as_str().unwrap() < alert["endsAt"].as_str().unwrap());
    }
}

fn webhook(asked: &Asked) {
    assert_eq!(asked.path, "/hook?token=xyzzySecret");
    let id = asked.header("webhook-id").unwrap();
    assert!(id.starts_with("msg_") && !id.contains('.'), "{id}");
    let timestamp: i64 = asked.header("webhook-timestamp").unwrap().parse().unwrap();
    assert!((super::ftagent_now() / 1000 - timestamp).abs() < 300, "a receiver would take it for a replay");
    let wanted = Key::parse(WEBHOOK_KEY).unwrap().sign(id, timestamp, &asked.body);
    assert_eq!(asked.header("webhook-signature"), Some(wanted.as_str()));
    assert!(asked.body.len() <= 20_000 && asked.json()["data"]["topic"] == ID);
}

/// Starts a stand-in and a post for it. The first requests are answered as told.
fn start(service: &'static Service, place: &Place, first: Vec<Answer>) -> (StandIn, ftagent::alert::Post) {
    let first = std::sync::Mutex::new(first);
    let stand_in = StandIn::start(move |_, _| {
        let mut first = first.lock().unwrap();
        if first.is_empty() { (service.well)() } else { first.remove(0) }
    });
    let fill = |text: &str| text.replace("URL", &stand_in.url(""));
    let secret = place.secret("secret", &fill(service.secret));
    let lines = format!("secret = {secret:?}\ntimeout = \"1s\"\nrate_per_minute = 60000\n{}", fill(service.lines));
    let post = place.post(&sink(service.kind, &lines));
    (stand_in, post)
}

/// Checks every request, and that the secret is nowhere in what people see.
fn check_all(service: &Service, stand_in: &StandIn, post: &ftagent::alert::Post) -> Vec<Asked> {
    let asked = stand_in.asked();
    for asked in &asked {
        assert_eq!(asked.method, "POST");
        assert!(asked.header("user-agent").unwrap().starts_with("ftagent/"));
        (service.check)(asked);
    }
    let seen = format!("{:?} {:?} {post:?}", post.status(), post.history());
    assert!(!seen.contains("xyzzySecret"), "{}: {seen}", service.kind);
    asked
}

#[test]
fn every_service_is_told_of_the_beginning_and_of_the_end() {
    for service in SERVICES {
        let place = Place::new();
        let (stand_in, post) = start(service, &place, Vec::new());
        hand(&post, incident(ID));
        wait_done(&post, "delivered", 1);
        hand(&post, over(ID));
        wait_done(&post, "delivered", 2);
        let asked = check_all(service, &stand_in, &post);
        assert_eq!(asked.len(), 2, "{}", service.kind);
        post.stop();
    }
}

#[test]
fn what_may_work_later_is_tried_again_and_is_the_same_message() {
    for service in SERVICES {
        let place = Place::new();
        let mut first: Vec<Answer> = service.later.iter().map(|(status, body)| says(*status, body)).collect();
        first.push(Answer::Resets);
        first.push(Answer::Hangs(Duration::from_millis(1500)));
        let tries = first.len();
        let (stand_in, post) = start(service, &place, first);
        hand(&post, incident(ID));
        wait_done(&post, "delivered", 1);
        let asked = check_all(service, &stand_in, &post);
        assert_eq!(asked.len(), tries + 1, "{}", service.kind);
        if service.kind == "webhook" {
            assert!(asked.iter().all(|again| again.header("webhook-id") == asked[0].header("webhook-id")));
        }
        assert_eq!(post.status().sinks[0].failures, tries as u64);
        post.stop();
    }
}

#[test]
fn what_is_refused_is_told_once_and_the_next_gets_through() {
    for service in SERVICES {
        let place = Place::new();
        for (status, body) in service.never {
            let (stand_in, post) = start(service, &place, vec![says(*status, body)]);
            hand(&post, incident(ID));
            wait_done(&post, "refused", 1);
            hand(&post, over(ID));
            wait_done(&post, "delivered", 1);
            assert_eq!(check_all(service, &stand_in, &post).len(), 2, "{} {status} {body}", service.kind);
            post.stop();
        }
    }
}

#[test]
fn a_wrong_key_holds_everything_until_it_is_mended() {
    for service in SERVICES {
        for (status, body) in service.shut {
            let place = Place::new();
            let (stand_in, post) = start(service, &place, (0..3).map(|_| says(*status, body)).collect());
            hand(&post, incident(ID));
            wait_done(&post, "delivered", 1);
            assert_eq!(check_all(service, &stand_in, &post).len(), 4, "{} {status} {body}", service.kind);
            post.stop();
        }
    }
}

#[test]
fn a_secret_that_others_may_read_is_not_used_and_one_that_is_mended_is() {
    let place = Place::new();
    let stand_in = StandIn::start(|_, _| says(200, "ok"));
    let path = place.state().join("secret");
    std::fs::write(&path, stand_in.url("/x")).unwrap();
    let post = place.post(&sink("slack", &format!("secret = {path:?}")));
    hand(&post, incident(ID));
    let trouble = wait_for("trouble", super::PATIENCE, || post.status().sinks[0].trouble.clone()).unwrap();
    assert!(trouble.contains("chmod 600"), "{trouble}");
    assert!(stand_in.asked().is_empty());
    place.secret("secret", &stand_in.url("/x"));
    wait_done(&post, "delivered", 1);
}

#[test]
fn the_time_that_a_service_wants_is_waited() {
    let place = Place::new();
    let wait = "Retry-After: 1\r\n";
    let stand_in = StandIn::start(move |number, _| match number {
        0 => Answer::Says(429, wait, String::new()),
        _ => says(200, "ok"),
    });
    let secret = place.secret("secret", &stand_in.url("/x"));
    let post = place.post(&sink("slack", &format!("secret = {secret:?}")));
    hand(&post, incident(ID));
    wait_done(&post, "delivered", 1);
    let asked = stand_in.asked();
    assert!(asked[1].at - asked[0].at >= Duration::from_secs(1));
}

#[test]
fn a_test_shows_what_the_other_side_says() {
    let place = Place::new();
    let stand_in = StandIn::start(|number, _| if number == 0 { says(404, "no_service") } else { says(200, "ok") });
    let secret = place.secret("secret", &stand_in.url("/xyzzySecret"));
    let sections = sink("slack", &format!("secret = {secret:?}"));
    let post = place.post(&sections);
    let test = |sink: &str| {
        let number = post.test(sink).unwrap();
        wait_for("an answer", super::PATIENCE, || post.tested(sink, number)).unwrap()
    };
    let first = test("s");
    assert!(!first.arrived && first.answer == "404 no_service" && first.meaning.contains("mended"), "{first:?}");
    assert!(test("s").arrived);
    assert!(post.test("other").unwrap_err().to_string().contains("there are s"));
    let here = ftagent::alert::try_once(&place.config(&sections).alerts, "s").unwrap();
    assert_eq!(here.answer, "200 ok");
    assert!(post.history().is_empty(), "a test is nobody's history");
}
