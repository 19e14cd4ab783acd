//! What each service is sent, and what its answers mean.

use std::time::Duration;

use ftagent::alert::sinks::webhook::Key;
use ftagent_tests::{
    daemon::wait_for,
    http::{Reply, Request, Response, Server, says},
};
use serde_json::{Value, json};

use super::{Place, body, hand, incident, over, sink, wait_done};

const ID: &str = "20260801T120000Z-1";
/// For requests that are answered: as long as a busy machine may take.
const PATIENT: &str = "10s";
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
    well: fn() -> Reply,
    /// Whether a request is right.
    check: fn(&Request),
    /// All that people get to read of a message.
    text: fn(&Value) -> String,
    /// What becomes of [`super::LINE`] there, where it begins.
    escaped: &'static str,
    /// What says that it is over.
    over: &'static str,
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
        text: |body| strings(&json!([body["text"], body["blocks"]])),
        escaped: "payload &lt;i&gt;&amp;amp; @everyone *_[x](http://evil)`|\"\\",
        over: "OVER",
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
        text: |body| strings(&body["embeds"]),
        escaped: r#"payload \<i\>&amp; \@everyone \*\_\[x\](http://evil)\`\|"\\"#,
        over: "OVER",
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
        text: |body| strings(&body["attachments"][0]["content"]["body"]),
        escaped: r#"payload <i>&amp; @everyone \*\_\[x\](http://evil)\`|"\\"#,
        over: "OVER",
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
        text: |body| strings(&json!([body["event_action"], body["payload"]])),
        escaped: super::LINE,
        over: "resolve",
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
        text: |body| strings(&json!([body["message"], body["description"], body["note"]])),
        escaped: super::LINE,
        over: "OVER",
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
        text: |body| strings(&body["text"]),
        escaped: "payload &lt;i&gt;&amp;amp; @everyone *_[x](http://evil)`|\"\\",
        over: "OVER",
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
        text: |body| body.as_array().unwrap().iter().map(|alert| strings(&alert["annotations"])).collect(),
        escaped: super::LINE,
        over: "OVER",
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
        text: |body| strings(&json!([body["data"]["title"], body["data"]["lines"]])),
        escaped: super::LINE,
        over: "OVER",
        later: &[(429, ""), (502, ""), (504, "")],
        never: &[(400, ""), (422, "")],
        shut: &[(410, ""), (401, ""), (302, "")],
    },
];

/// Returns every text in a value, a line each.
fn strings(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{text}\n"),
        Value::Array(values) => values.iter().map(strings).collect(),
        Value::Object(values) => values.values().map(strings).collect(),
        _ => String::new(),
    }
}

/// Returns whether nothing in a text is markup or the beginning of an entity that is none.
fn is_escaped(text: &str) -> bool {
    let entity = |rest: &str| ["amp;", "lt;", "gt;"].iter().any(|entity| rest.starts_with(entity));
    !text.contains(['<', '>']) && text.split('&').skip(1).all(entity)
}

fn slack(asked: &Request) {
    assert_eq!(asked.target(), "/services/T000/B000/xyzzySecret");
    let body = body(asked);
    assert!((1..=4000).contains(&length(&body["text"])));
    let blocks = body["blocks"].as_array().unwrap();
    assert!(blocks.len() <= 50);
    for block in blocks {
        let texts = block["fields"].as_array().cloned().unwrap_or_default();
        assert!(texts.len() <= 10 && texts.iter().all(|text| length(&text["text"]) <= 2000));
        assert!(is_escaped(&strings(&json!([block["fields"], block["text"]]))), "{block:#}");
        if block["type"] == "section" && block.get("text").is_some() {
            let text = block["text"]["text"].as_str().unwrap();
            assert!(!text.is_empty() && text.chars().count() <= 3000);
        }
    }
}

fn discord(asked: &Request) {
    assert_eq!(asked.target(), "/api/webhooks/123/xyzzySecret?wait=true");
    let body = body(asked);
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
    let text = strings(&body["embeds"]);
    assert!(!text.replace("\\@", "").contains('@'), "nobody is called by what senders wrote: {text}");
}

fn teams(asked: &Request) {
    assert_eq!(asked.target(), "/workflows/1/triggers/manual/paths/invoke?sig=xyzzySecret");
    assert!(asked.body.len() <= 28 * 1024);
    let body = body(asked);
    let attachment = &body["attachments"][0];
    assert_eq!((&body["type"], &attachment["contentUrl"]), (&json!("message"), &Value::Null));
    assert_eq!(attachment["contentType"], "application/vnd.microsoft.card.adaptive");
    let card = &attachment["content"];
    assert_eq!((&card["type"], &card["version"]), (&json!("AdaptiveCard"), &json!("1.4")));
    let blocks: Vec<&Value> = card["body"].as_array().unwrap().iter().filter(|b| b["type"] == "TextBlock").collect();
    assert!(blocks.len() >= 2 && blocks.iter().all(|block| block["wrap"] == true), "{card:#}");
}

fn pagerduty(asked: &Request) {
    assert_eq!(asked.target(), "/v2/enqueue");
    let body = body(asked);
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

fn opsgenie(asked: &Request) {
    assert_eq!(asked.header("authorization"), Some("GenieKey xyzzySecret-0000"));
    let body = body(asked);
    if asked.target() == format!("/v2/alerts/ftagent%2Fedge1%2F{ID}/close?identifierType=alias") {
        assert!(body["note"].as_str().unwrap().starts_with("OVER"));
        return;
    }
    assert_eq!(asked.target(), "/v2/alerts");
    assert!((1..=130).contains(&length(&body["message"])) && length(&body["description"]) <= 15_000);
    assert_eq!(body["alias"], format!("ftagent/edge1/{ID}"));
    assert_eq!((&body["priority"], &body["responders"]), (&json!("P2"), &json!([{ "name": "NOC", "type": "team" }])));
    let tags = body["tags"].as_array().unwrap();
    assert!(tags.len() <= 20 && tags.iter().all(|tag| length(tag) <= 50));
    assert!(body["details"].as_object().unwrap().values().all(Value::is_string));
}

fn telegram(asked: &Request) {
    assert_eq!(asked.target(), "/bot123456:xyzzySecret_-x/sendMessage");
    let body = body(asked);
    assert_eq!((&body["chat_id"], &body["parse_mode"]), (&json!(-1_001_234_567_890_i64), &json!("HTML")));
    let text = body["text"].as_str().unwrap();
    // Its own markup, once; none of what senders wrote.
    let (title, rest) = text.strip_prefix("<b>").unwrap().split_once("</b>").unwrap();
    let plain = format!("{title}{rest}");
    assert!(is_escaped(&plain), "{plain}");
    assert!(plain.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&").chars().count() <= 4096);
}

fn alertmanager(asked: &Request) {
    assert_eq!(
        (asked.target().as_str(), asked.header("authorization")),
        ("/api/v2/alerts", Some("Bearer xyzzySecret"))
    );
    let body = body(asked);
    assert!(!body.as_array().unwrap().is_empty());
    for alert in body.as_array().unwrap() {
        let labels = alert["labels"].as_object().unwrap();
        assert_eq!((&labels["alertname"], &labels["incident"]), (&json!("FtagentAttack"), &json!(ID)));
        assert!(labels.keys().all(|name| name.chars().all(|c| c.is_ascii_lowercase())));
        assert!(alert["startsAt"].as_str().unwrap() < alert["endsAt"].as_str().unwrap());
    }
}

fn webhook(asked: &Request) {
    assert_eq!(asked.target(), "/hook?token=xyzzySecret");
    let id = asked.header("webhook-id").unwrap();
    assert!(id.starts_with("msg_") && !id.contains('.'), "{id}");
    let timestamp: i64 = asked.header("webhook-timestamp").unwrap().parse().unwrap();
    assert!((super::ftagent_now() / 1000 - timestamp).abs() < 300, "a receiver would take it for a replay");
    let wanted = Key::parse(WEBHOOK_KEY).unwrap().sign(id, timestamp, &asked.body);
    assert_eq!(asked.header("webhook-signature"), Some(wanted.as_str()));
    assert!(asked.body.len() <= 20_000 && body(asked)["data"]["topic"] == ID);
}

/// Starts a stand-in and a post for it, which is as patient as told. The first requests are answered as told.
fn start(service: &'static Service, place: &Place, timeout: &str, first: Vec<Reply>) -> (Server, ftagent::alert::Post) {
    let first = std::sync::Mutex::new(first);
    let server = Server::start(move |_, _| {
        let mut first = first.lock().unwrap();
        if first.is_empty() { (service.well)() } else { first.remove(0) }
    });
    let fill = |text: &str| text.replace("URL", &server.url(""));
    let secret = place.secret("secret", &fill(service.secret));
    let lines =
        format!("secret = {secret:?}\ntimeout = \"{timeout}\"\nrate_per_minute = 60000\n{}", fill(service.lines));
    let post = place.post(&sink(service.kind, &lines));
    (server, post)
}

/// Checks every request, that the first tells of the beginning and the last, where it has ended, of the end, and that
/// the secret is nowhere in what people see.
fn check_all(service: &Service, server: &Server, post: &ftagent::alert::Post, ended: bool) -> Vec<Request> {
    let asked = server.asked();
    for asked in &asked {
        assert_eq!(asked.method, "POST");
        assert!(asked.header("user-agent").unwrap().starts_with("ftagent/"));
        (service.check)(asked);
    }
    let texts: Vec<String> = asked.iter().map(|asked| (service.text)(&body(asked))).collect();
    let (first, last) = (texts.first().unwrap(), texts.last().unwrap());
    assert!(first.contains("ATTACK on edge1") && first.contains(service.escaped), "{}: {first}", service.kind);
    assert_eq!(last.contains(service.over), ended, "{}: {last}", service.kind);
    let seen = format!("{:?} {:?} {post:?}", post.status(), post.history());
    assert!(!seen.contains("xyzzySecret"), "{}: {seen}", service.kind);
    asked
}

#[test]
fn every_service_is_told_of_the_beginning_and_of_the_end() {
    for service in SERVICES {
        let place = Place::new();
        let (server, post) = start(service, &place, PATIENT, Vec::new());
        hand(&post, incident(ID));
        wait_done(&post, "delivered", 1);
        hand(&post, over(ID));
        wait_done(&post, "delivered", 2);
        let asked = check_all(service, &server, &post, true);
        assert_eq!(asked.len(), 2, "{}", service.kind);
        post.stop();
    }
}

#[test]
fn what_may_work_later_is_tried_again_and_is_the_same_message() {
    for service in SERVICES {
        let place = Place::new();
        let mut first: Vec<Reply> = service.later.iter().map(|(status, body)| says(*status, body)).collect();
        first.push(Reply::Reset);
        let tries = first.len();
        let (server, post) = start(service, &place, PATIENT, first);
        hand(&post, incident(ID));
        wait_done(&post, "delivered", 1);
        let asked = check_all(service, &server, &post, false);
        assert_eq!(asked.len(), tries + 1, "{}", service.kind);
        is_one_message(service, &asked);
        assert_eq!(post.status().sinks[0].failures, tries as u64);
        post.stop();
    }
}

#[test]
fn who_says_nothing_is_asked_again() {
    for service in SERVICES {
        let place = Place::new();
        let (server, post) = start(service, &place, "1s", vec![Reply::Stall(Duration::from_secs(600))]);
        hand(&post, incident(ID));
        wait_done(&post, "delivered", 1);
        let asked = check_all(service, &server, &post, false);
        // On a machine that is busy, an answer may be late as well.
        assert!(asked.len() >= 2, "{}", service.kind);
        is_one_message(service, &asked);
        post.stop();
    }
}

/// Checks that a message was not made anew for another try.
fn is_one_message(service: &Service, asked: &[Request]) {
    let text = |asked: &Request| (service.text)(&body(asked));
    let id = |asked: &Request| asked.header("webhook-id").map(str::to_owned);
    for again in asked {
        assert_eq!((text(again), id(again)), (text(&asked[0]), id(&asked[0])), "{}", service.kind);
    }
}

#[test]
fn what_is_refused_is_told_once_and_the_next_gets_through() {
    for service in SERVICES {
        let place = Place::new();
        for (status, body) in service.never {
            let (server, post) = start(service, &place, PATIENT, vec![says(*status, body)]);
            hand(&post, incident(ID));
            wait_done(&post, "refused", 1);
            hand(&post, over(ID));
            wait_done(&post, "delivered", 1);
            assert_eq!(check_all(service, &server, &post, true).len(), 2, "{} {status} {body}", service.kind);
            post.stop();
        }
    }
}

#[test]
fn a_wrong_key_holds_everything_until_it_is_mended() {
    for service in SERVICES {
        for (status, body) in service.shut {
            let place = Place::new();
            let (server, post) = start(service, &place, PATIENT, (0..3).map(|_| says(*status, body)).collect());
            hand(&post, incident(ID));
            wait_done(&post, "delivered", 1);
            assert_eq!(check_all(service, &server, &post, false).len(), 4, "{} {status} {body}", service.kind);
            post.stop();
        }
    }
}

#[test]
fn a_secret_that_others_may_read_is_not_used_and_one_that_is_mended_is() {
    let place = Place::new();
    let server = Server::start(|_, _| says(200, "ok"));
    let path = place.state().join("secret");
    std::fs::write(&path, server.url("/x")).unwrap();
    let post = place.post(&sink("slack", &format!("secret = {path:?}")));
    hand(&post, incident(ID));
    let trouble = wait_for("trouble", super::PATIENCE, || post.status().sinks[0].trouble.clone()).unwrap();
    assert!(trouble.contains("chmod 600"), "{trouble}");
    assert!(server.asked().is_empty());
    place.secret("secret", &server.url("/x"));
    wait_done(&post, "delivered", 1);
}

#[test]
fn the_time_that_a_service_wants_is_waited() {
    let place = Place::new();
    let server = Server::start(move |number, _| match number {
        0 => Reply::Send(Response::empty(429).with("Retry-After", "1")),
        _ => says(200, "ok"),
    });
    let secret = place.secret("secret", &server.url("/x"));
    let post = place.post(&sink("slack", &format!("secret = {secret:?}")));
    hand(&post, incident(ID));
    wait_done(&post, "delivered", 1);
    let asked = server.asked();
    assert!(asked[1].at - asked[0].at >= Duration::from_secs(1));
}

#[test]
fn a_test_shows_what_the_other_side_says() {
    let place = Place::new();
    let server = Server::start(|number, _| if number == 0 { says(404, "no_service") } else { says(200, "ok") });
    let secret = place.secret("secret", &server.url("/xyzzySecret"));
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
