//! A report as a STIX 2.1 bundle (OASIS Standard, 10 June 2021). The same report gives the same bundle: its
//! identifiers are UUIDs of version 5 and its times are the incident's. The host's own addresses are not in it.

mod check;

use std::net::IpAddr;

use serde_json::{Map, Value, json};
use uuid::Uuid;

pub use check::problems;

use super::{
    pattern::Kind,
    report::{Basis, Hit, IocReport, Source, rfc3339},
};

/// The name space of cyber observables' identifiers (STIX 2.1, 2.9).
const OBSERVABLES: Uuid = Uuid::from_u128(0x00ab_edb4_aa42_466c_9c01_fed2_3315_a9b7);
/// The name space of our other objects.
const OURS: Uuid = Uuid::from_u128(0x5f3a_1c7e_9d64_4b0b_8a52_6e1f_0c9d_2b71);

/// How long an indicator holds that names an address, days: addresses change hands.
const HOLDS_DAYS: i64 = 7;
/// Addresses in a bundle at most, sources and reflectors each.
const MOST_ADDRESSES: usize = 200;
/// A pattern below this share of the packets is not what the attack was made with.
const LEAST_SHARE: f64 = 0.05;
/// The most that `number_observed` may say (STIX 2.1, 4.14).
const MOST_OBSERVED: u64 = 999_999_999;

/// Makes the bundle.
pub fn bundle(report: &IocReport) -> Value {
    let mut maker = Maker::new(report);
    let attack = maker.attack_pattern();
    let observed = maker.observed();
    maker.addresses(&report.sources, "malicious-activity", &attack, observed.as_deref());
    maker.addresses(&report.reflectors, "anomalous-activity", &attack, observed.as_deref());
    maker.reflection(&attack);
    maker.tools(&attack);
    let id = maker.id("bundle", "bundle");
    json!({ "type": "bundle", "id": id, "objects": maker.objects })
}

struct Maker<'a> {
    report: &'a IocReport,
    identity: String,
    from: String,
    to: String,
    objects: Vec<Value>,
}

impl<'a> Maker<'a> {
    fn new(report: &'a IocReport) -> Self {
        let (from_ms, to_ms) = (report.from_ms, report.to_ms.max(report.from_ms));
        let (from, to) = (rfc3339(from_ms), rfc3339(to_ms));
        let identity = format!("identity--{}", Uuid::new_v5(&OURS, b"identity"));
        let mut maker = Self { report, identity: identity.clone(), from, to, objects: Vec::new() };
        // Its own times never change, whatever incident it reports.
        let epoch = rfc3339(0);
        maker.objects.push(json!({
            "type": "identity", "spec_version": "2.1", "id": identity, "created": epoch, "modified": epoch,
            "name": "ftagent", "description": "A DDoS defence agent.", "identity_class": "system",
        }));
        maker
    }

    /// An identifier that this incident and key always have.
    fn id(&self, kind: &str, key: &str) -> String {
        let name = format!("{kind}\n{}\n{key}", self.report.incident);
        format!("{kind}--{}", Uuid::new_v5(&OURS, name.as_bytes()))
    }

    /// Adds an object with what all have in common.
    fn object(&mut self, kind: &str, key: &str, rest: Value) -> String {
        let id = self.id(kind, key);
        let mut object = json!({
            "type": kind, "spec_version": "2.1", "id": id, "created_by_ref": self.identity,
            "created": self.from, "modified": self.to,
        });
        if let (Some(object), Value::Object(rest)) = (object.as_object_mut(), rest) {
            object.extend(rest);
        }
        self.objects.push(object);
        id
    }

    /// Adds a cyber observable, once; its identifier follows from what it says.
    fn observable(&mut self, kind: &str, named_by: &Value, rest: Value) -> String {
        // Keys of a map are in order, as RFC 8785 wants them, and no number in it is a fraction.
        let id = format!("{kind}--{}", Uuid::new_v5(&OBSERVABLES, named_by.to_string().as_bytes()));
        let known = self.objects.iter().any(|object| object.get("id").and_then(Value::as_str) == Some(&id));
        if !known {
            let mut object = json!({ "type": kind, "spec_version": "2.1", "id": id });
            if let (Some(object), Value::Object(rest)) = (object.as_object_mut(), rest) {
                object.extend(rest);
            }
            self.objects.push(object);
        }
        id
    }

    fn relationship(&mut self, from: &str, kind: &str, to: &str) {
        let rest = json!({ "relationship_type": kind, "source_ref": from, "target_ref": to });
        self.object("relationship", &format!("{from} {kind} {to}"), rest);
    }

    fn attack_pattern(&mut self) -> String {
        let (technique, name) = technique(&self.report.vector, !self.report.reflectors.is_empty());
        let link = format!("https://attack.mitre.org/techniques/{}", technique.replace('.', "/"));
        let rest = json!({
            "name": name,
            "description": format!("Vectors: {}.", self.report.vectors.join(", ")),
            "external_references": [{ "source_name": "mitre-attack", "external_id": technique, "url": link }],
        });
        self.object("attack-pattern", technique, rest)
    }

    fn address(&mut self, address: IpAddr) -> String {
        let kind = if address.is_ipv4() { "ipv4-addr" } else { "ipv6-addr" };
        let value = json!({ "value": address.to_string() });
        self.observable(kind, &value.clone(), value)
    }

    fn observed(&mut self) -> Option<String> {
        let report = self.report;
        let mut refs = Vec::new();
        for source in report.sources.iter().chain(&report.reflectors).take(MOST_ADDRESSES) {
            let from = self.address(source.address);
            let protocols = json!([if source.address.is_ipv4() { "ipv4" } else { "ipv6" }]);
            let mut named = json!({ "src_ref": from, "protocols": protocols });
            if let (Some(port), Some(named)) = (source.port, named.as_object_mut()) {
                named.insert("src_port".to_owned(), port.into());
                named.insert("protocols".to_owned(), json!([protocols[0], "udp"]));
            }
            let traffic = self.observable("network-traffic", &named.clone(), named);
            refs.extend([from, traffic]);
        }
        if refs.is_empty() {
            return None;
        }
        let rest = json!({
            "first_observed": self.from, "last_observed": self.to,
            "number_observed": report.packets.clamp(1, MOST_OBSERVED), "object_refs": refs,
        });
        Some(self.object("observed-data", "observed", rest))
    }

    fn addresses(&mut self, list: &[Source], kind: &str, attack: &str, observed: Option<&str>) {
        // Of what was told apart by class alone, customers may be part.
        let doubt = if self.report.basis == Basis::Rules || kind != "malicious-activity" { 1.0 } else { 0.5 };
        for source in list.iter().take(MOST_ADDRESSES) {
            let family = if source.address.is_ipv4() { "ipv4-addr" } else { "ipv6-addr" };
            let kind = if doubt < 1.0 { "anomalous-activity" } else { kind };
            let until = source.last_ms.max(self.report.to_ms).saturating_add(HOLDS_DAYS * 86_400_000);
            let rest = json!({
                "name": format!("{} {}", if source.port.is_some() { "Reflector" } else { "Source" }, source.address),
                "description": source.why,
                "indicator_types": [kind],
                "pattern": format!("[{family}:value = '{}']", source.address),
                "pattern_type": "stix", "pattern_version": "2.1",
                "valid_from": self.from, "valid_until": rfc3339(until),
                "confidence": (source.confidence * doubt * 100.0).round() as u8,
            });
            let id = self.object("indicator", &source.address.to_string(), rest);
            self.relationship(&id, "indicates", attack);
            if let Some(observed) = observed {
                self.relationship(&id, "based-on", observed);
            }
        }
    }

    /// The reflectors together, and what their answers look like.
    fn reflection(&mut self, attack: &str) {
        let mut ports: Vec<u16> = self.report.reflectors.iter().filter_map(|source| source.port).collect();
        ports.sort_unstable();
        ports.dedup();
        for port in ports {
            let all = self.report.reflectors.iter().filter(|source| source.port == Some(port));
            let (members, share) = all.take(MOST_ADDRESSES).fold((Vec::new(), 0.0), |(mut members, share), source| {
                members.push(source.address);
                (members, share + source.share)
            });
            let infrastructure = self.object(
                "infrastructure",
                &format!("reflectors {port}"),
                json!({
                    "name": format!("Reflectors on UDP port {port}"),
                    "infrastructure_types": ["amplification"],
                    "first_seen": self.from, "last_seen": self.to,
                }),
            );
            for address in members {
                let address = self.address(address);
                self.relationship(&infrastructure, "consists-of", &address);
            }
            let rest = json!({
                "name": format!("Answers from UDP port {port}"),
                "description": "Ordinary where they were asked for.",
                "indicator_types": ["anomalous-activity"],
                "pattern": format!("[network-traffic:protocols[*] = 'udp' AND network-traffic:src_port = {port}]"),
                "pattern_type": "stix", "pattern_version": "2.1", "valid_from": self.from,
                "confidence": (share.min(1.0) * 50.0).round() as u8,
            });
            let id = self.object("indicator", &format!("port {port}"), rest);
            self.relationship(&id, "indicates", attack);
            self.relationship(&id, "indicates", &infrastructure);
        }
    }

    /// What the packets look like they were made by.
    fn tools(&mut self, attack: &str) {
        let report = self.report;
        let named = report.patterns.iter().filter(|hit| hit.kind.names_a_tool() && !hit.tool.is_empty());
        let mut done: Vec<&str> = Vec::new();
        for hit in named.filter(|hit| hit.share >= LEAST_SHARE) {
            if done.contains(&hit.tool.as_str()) {
                continue;
            }
            done.push(&hit.tool);
            let id = self.tool(hit);
            if hit.kind == Kind::Botnet {
                self.relationship(&id, "uses", attack);
            }
        }
    }

    fn tool(&mut self, hit: &Hit) -> String {
        let mut rest = Map::new();
        rest.insert("name".to_owned(), json!(hit.tool));
        let told = format!("{} ({:.0} % of the packets; pattern {}).", hit.about, hit.share * 100.0, hit.name);
        rest.insert("description".to_owned(), json!(told));
        rest.insert("confidence".to_owned(), json!((hit.confidence * hit.share.min(1.0) * 100.0).round() as u8));
        rest.insert("external_references".to_owned(), json!([{ "source_name": "public", "description": hit.source }]));
        let kind = if hit.kind == Kind::Botnet { "malware" } else { "tool" };
        if hit.kind == Kind::Botnet {
            rest.insert("malware_types".to_owned(), json!(["bot", "ddos"]));
            rest.insert("is_family".to_owned(), json!(true));
        } else {
            rest.insert("tool_types".to_owned(), json!(["denial-of-service"]));
        }
        self.object(kind, &hit.tool, Value::Object(rest))
    }
}

/// The technique of MITRE ATT&CK that a vector is.
fn technique(vector: &str, reflected: bool) -> (&'static str, &'static str) {
    match vector {
        "syn_flood" | "tcp_connection_flood" | "ack_flood" => {
            ("T1499.001", "Endpoint Denial of Service: OS Exhaustion Flood")
        }
        "http_flood" | "tls_flood" | "slow_http" | "dns_query_flood" | "dns_water_torture" | "sip_flood" => {
            ("T1499.002", "Endpoint Denial of Service: Service Exhaustion Flood")
        }
        _ if reflected || vector.ends_with("amplification") || vector.ends_with("reflection") || vector == "smurf" => {
            ("T1498.002", "Network Denial of Service: Reflection Amplification")
        }
        _ => ("T1498.001", "Network Denial of Service: Direct Network Flood"),
    }
}
