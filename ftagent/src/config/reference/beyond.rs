//! Sections about what is beyond this host: the uplink, the ladder, BGP daemons and providers.

use super::{DURATION, Key, NUMBER, PREFIXES, SWITCH, Section, TEXT, row};

/// `[uplink]`.
pub(super) const UPLINK: Section = Section {
    name: "uplink",
    doc: "The link towards the network, which the ladder keeps from filling.",
    keys: &[
        row(
            "uplink.capacity",
            "a rate",
            "",
            "What it carries, as \"1 Gbit/s\", all interfaces together; empty: what the drivers say of each. A rate \
                 that a provider commits to is less than what the card says.",
        ),
        row(
            "uplink.prefixes",
            PREFIXES,
            "",
            "Your own address space: nothing else is ever named upstream. Empty: `bgp.own_prefixes`, or this host's own \
                 addresses.",
        ),
    ],
};

/// `[ladder]`.
pub(super) const LADDER: Section = Section {
    name: "ladder",
    doc: "What is asked of the network upstream when dropping here is not enough. docs/LADDER.md explains it. It \
              does nothing without a plane.",
    keys: &[
        row(
            "ladder.mode",
            "\"off\", \"dry-run\" or \"on\"",
            "",
            "\"dry-run\" decides and says what would be asked for, and asks nobody.",
        ),
        row(
            "ladder.patience",
            DURATION,
            "",
            "How long a black hole waits for an operator's answer to a rung below it; 0 s to 1 h.",
        ),
        row(
            "ladder.trickle",
            "a rate",
            "",
            "What a probe lets through of what filters drop, all filters together; 10 kbit/s to 1 Gbit/s.",
        ),
        row(
            "ladder.never_black_hole",
            PREFIXES,
            "",
            "Addresses that are never black-holed, beside those with SSH or BGP sessions.",
        ),
    ],
};

/// `[[ladder.rungs]]`.
pub(super) const RUNGS: Section = Section {
    name: "ladder.rungs[]",
    doc: "A rung, in the order in which they are tried. Without any: FlowSpec by itself at 70 %, then sources, \
              providers and, at 95 %, the victim's black hole, each when an operator approves. It is climbed when \
              any of its conditions holds during an attack, or when the uplink would be full before the plane works.",
    keys: &[
        Key {
            sample: "\"flowspec\"",
            ..row("ladder.rungs[].plane", TEXT, "", "\"flowspec\", \"rtbh\", \"source_rtbh\", or a provider's name.")
        },
        row(
            "ladder.rungs[].does",
            "\"divert\", \"filter\", \"black-hole\", \"source-black-hole\" or empty",
            "",
            "What a provider is asked for, of what its `takes` has: to lead the traffic through its scrubbing, \
                 filters, or to drop everything towards an address or from one. Empty: to divert.",
        ),
        row(
            "ladder.rungs[].approve",
            "\"ask\" or \"auto\"",
            "",
            "\"ask\" waits for `ftagent ladder approve`. \"auto\" acts at once; all but FlowSpec then need `per_day`.",
        ),
        row(
            "ladder.rungs[].utilisation_percent",
            NUMBER,
            "percent",
            "The uplink is so full; 0: it does not matter, nor does its growth. -1: 70, of providers 80, of black holes 95.",
        ),
        row(
            "ladder.rungs[].lost_pps",
            NUMBER,
            "packets per second",
            "Cards and backlogs lose so many; 0: it does not matter. -1: 50, of black holes 0.",
        ),
        row(
            "ladder.rungs[].softirq_percent",
            NUMBER,
            "percent",
            "The busiest CPU spends so much of its time taking packets; 0: it does not matter. -1: 90, of black holes 0.",
        ),
        row(
            "ladder.rungs[].residual_percent",
            NUMBER,
            "percent",
            "So much of the attack passes what is dropped here; 0 or -1: it does not matter.",
        ),
        row(
            "ladder.rungs[].activation",
            DURATION,
            "",
            "How long the plane takes until it works; empty: 1s, of providers 5m. The rung is climbed so much \
                 earlier than the uplink would be full.",
        ),
        row(
            "ladder.rungs[].hold",
            DURATION,
            "",
            "How long it stays before it is probed whether it is needed; doubles with each probe that says yes. \
                 Empty: 1m, of providers 30m.",
        ),
        row(
            "ladder.rungs[].longest_hold",
            DURATION,
            "",
            "The longest time to the next probe; empty: 30m, of black holes 10m, of providers 6h.",
        ),
        row(
            "ladder.rungs[].most",
            NUMBER,
            "",
            "Announcements at once at most, up to 256; 0: 64 filters, 8 sources, 4 diversions, 2 black holes.",
        ),
        row(
            "ladder.rungs[].per_day",
            NUMBER,
            "",
            "Times in 24 hours that it is climbed without an operator; beyond them it asks. 0: no cap.",
        ),
        row(
            "ladder.rungs[].probe",
            "\"trickle\", \"withdraw\" or empty",
            "",
            "How it is found out whether it is needed: a little is let through (filters alone), or it is taken \
                 back for a moment. Empty: a trickle for filters.",
        ),
    ],
};

/// `[bgp]`.
pub(super) const BGP: Section = Section {
    name: "bgp",
    doc: "The BGP daemon on this host, or one beside it, through which routers upstream are asked to drop: by \
              flow specifications, and by black holes. docs/planes/gobgp.md and docs/planes/exabgp.md have examples.",
    keys: &[
        row("bgp.daemon", "\"gobgp\", \"exabgp\" or \"\"", "", "Which it is; \"\": none, and nothing is announced."),
        row(
            "bgp.gobgp_address",
            "an address and a port",
            "",
            "GoBGP's API (version 3). It asks nobody for a password: have gobgpd listen on loopback.",
        ),
        row(
            "bgp.exabgp_pipes",
            TEXT,
            "",
            "The directory of ExaBGP's pipes exabgp.in and exabgp.out, which the agent must be able to open.",
        ),
        row("bgp.asn", NUMBER, "", "Your AS: the first part of the marker, and of what is told with a rate."),
        row(
            "bgp.marker",
            "a large community",
            "",
            "What every route carries, so that the agent knows its own after a restart; each agent needs another \
                 one. \"\": made of the AS and of this machine's identity.",
        ),
        row("bgp.own_prefixes", PREFIXES, "", "Your own space: nothing towards a destination outside is announced."),
        row(
            "bgp.protect",
            PREFIXES,
            "",
            "What is never announced, not even as a part of a prefix: addresses of management and of BGP.",
        ),
        row("bgp.next_hop4", TEXT, "", "The next hop of black holes, which your routers send to nowhere."),
        row("bgp.next_hop6", TEXT, "", "The same for IPv6."),
        row("bgp.communities", "a list of communities", "", "What black holes carry."),
        row("bgp.flowspec_communities", "a list of communities", "", "What flow specifications carry."),
        row("bgp.max_announcements", NUMBER, "", "Flow specifications, and black holes, at a time; 1 to 10000."),
        row(
            "bgp.packet_rates",
            SWITCH,
            "",
            "Whether your routers know limits in packets (RFC 8955, 7.2). Those that do not would let all pass.",
        ),
        row("bgp.blackhole_prefixes", SWITCH, "", "Whether more than a single host may be black-holed."),
        row(
            "bgp.source_blackhole",
            SWITCH,
            "",
            "Whether sources may be black-holed: your routers need a loose reverse-path check (RFC 5635).",
        ),
    ],
};

/// `[[scrub]]`.
pub(super) const SCRUB: Section = Section {
    name: "scrub[]",
    doc: "A provider that takes traffic away before it reaches this node; the ladder knows it by its name. Repeat \
              the section for each. docs/planes has a page for each provider: what it can do, what it cannot, and \
              which permissions it needs.",
    keys: &[
        Key { sample: "\"magic\"", ..row("scrub[].name", TEXT, "", "Its name: a-z, 0-9, _ and -.") },
        Key {
            sample: "\"cloudflare\"",
            ..row(
                "scrub[].provider",
                "\"cloudflare\", \"ovh\", \"hetzner-robot\", \"hetzner-cloud\" or \"webhook\"",
                "",
                "Who it is.",
            )
        },
        Key {
            sample: "\"credential:cloudflare\"",
            unless: "`provider` is \"hetzner-cloud\"",
            ..row(
                "scrub[].credentials",
                TEXT,
                "",
                "A file of lines `key = value` that only its owner may read, or `credential:NAME` for one that \
                     systemd hands over (LoadCredential=).",
            )
        },
        row(
            "scrub[].account",
            TEXT,
            "",
            "cloudflare: the account's 32 digits. hetzner-robot: the server's number. Others have none.",
        ),
        Key {
            sample: "[\"203.0.113.0/24\"]",
            unless: "`provider` is \"hetzner-cloud\"",
            ..row("scrub[].prefixes", PREFIXES, "", "Your own, that it may be asked about; nothing outside is.")
        },
        row(
            "scrub[].endpoint",
            TEXT,
            "",
            "Where its interface is; empty: the provider's own, which a webhook does not have. TLS is required \
                 unless it is on a loopback address.",
        ),
        row(
            "scrub[].ca_file",
            TEXT,
            "",
            "Certificates (PEM) that the endpoint's is signed by; empty: those of public authorities.",
        ),
        row(
            "scrub[].takes",
            "a list of strings",
            "",
            "What it may be asked for: \"divert\", \"filter\", \"black-hole\", \"source-black-hole\". Empty: \
                 \"divert\" alone, of hetzner-robot \"filter\". The ladder asks for the first of these that it takes, \
                 unless `ladder.rungs[].does` says otherwise. Black holes are a webhook's alone.",
        ),
        row(
            "scrub[].min_hold",
            DURATION,
            "",
            "How long traffic stays diverted at least. Empty: what suits the provider (cloudflare: 30 min).",
        ),
        row(
            "scrub[].min_gap",
            DURATION,
            "",
            "Time from the end of one diversion of a prefix to the next at least. Empty: what suits the provider \
                 (cloudflare: 15 min).",
        ),
    ],
};
