//! The traffic classes: what the kernel program counts.
//!
//! Every packet is in exactly one class. The numbers are an ABI (they index the counters that
//! outlive the daemon), so a class keeps its number for ever and a new one is appended.

/// Room for classes in the per-CPU counters; [`TrafficClass::COUNT`] may grow up to this before
/// the layout of the counters changes.
pub const CLASS_SLOTS: usize = 80;

macro_rules! classes {
    ($($(#[doc = $doc:literal])* $variant:ident = $name:literal,)*) => {
        /// A traffic class. The names are those users see in metrics, rules and reports.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum TrafficClass {
            $($(#[doc = $doc])* $variant,)*
        }

        impl TrafficClass {
            /// Every class, in the order of its number.
            pub const ALL: [Self; Self::COUNT] = [$(Self::$variant),*];
            /// How many classes there are.
            pub const COUNT: usize = [$(Self::$variant),*].len();

            /// Returns the name that users see, for example `tcp_syn`.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Returns what is in it, in words.
            pub const fn about(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),*),)* }
            }
        }
    };
}

classes! {
    /// ARP.
    Arp = "arp",
    /// Any other EtherType, and 802.3 frames with a length.
    OtherL2 = "other_l2",
    /// Lengths or offsets that contradict each other, truncated headers, land, martian sources.
    Malformed = "malformed",
    /// The first fragment of a datagram: offset 0, more to come.
    FragFirst = "frag_first",
    /// A later fragment.
    FragNext = "frag_next",
    /// SYN alone (ECN bits aside).
    TcpSyn = "tcp_syn",
    /// SYN and ACK.
    TcpSynAck = "tcp_synack",
    /// ACK or PSH-ACK without payload.
    TcpAck = "tcp_ack",
    /// ACK or PSH-ACK with payload.
    TcpData = "tcp_data",
    /// FIN with ACK.
    TcpFin = "tcp_fin",
    /// RST, with or without ACK or PSH.
    TcpRst = "tcp_rst",
    /// No flag at all.
    TcpNull = "tcp_null",
    /// FIN, PSH and URG.
    TcpXmas = "tcp_xmas",
    /// A combination no stack sends: SYN+FIN, SYN+RST, FIN without ACK, and so on.
    TcpBadFlags = "tcp_badflags",
    /// URG, alone or with ACK or PSH.
    TcpUrg = "tcp_urg",
    /// Data that begins with an HTTP/1 method or the HTTP/2 preface.
    HttpRequest = "http_request",
    /// Data that begins with a TLS ClientHello.
    TlsClientHello = "tls_client_hello",
    /// To port 53, DNS with QR = 0.
    UdpDnsQuery = "udp_dns_query",
    /// To port 443, a QUIC Initial.
    UdpQuicInitial = "udp_quic_initial",
    /// To port 5060, a SIP request.
    UdpSip = "udp_sip",
    /// Source/Quake out-of-band (`ff ff ff ff`) towards a game server.
    UdpGameQuery = "udp_game_query",
    /// The opening packet of OpenVPN, WireGuard or IKE.
    UdpVpn = "udp_vpn",
    /// From port 19.
    UdpSrcChargen = "udp_src_chargen",
    /// From port 17.
    UdpSrcQotd = "udp_src_qotd",
    /// From port 53.
    UdpSrcDns = "udp_src_dns",
    /// From port 69.
    UdpSrcTftp = "udp_src_tftp",
    /// From port 111.
    UdpSrcPortmap = "udp_src_portmap",
    /// From port 123.
    UdpSrcNtp = "udp_src_ntp",
    /// From port 137.
    UdpSrcNetbios = "udp_src_netbios",
    /// From port 161.
    UdpSrcSnmp = "udp_src_snmp",
    /// From port 389.
    UdpSrcCldap = "udp_src_cldap",
    /// From port 427.
    UdpSrcSlp = "udp_src_slp",
    /// From port 500 or 4500.
    UdpSrcIsakmp = "udp_src_isakmp",
    /// From port 520.
    UdpSrcRip = "udp_src_rip",
    /// From port 623.
    UdpSrcIpmi = "udp_src_ipmi",
    /// From port 1194.
    UdpSrcOpenvpn = "udp_src_openvpn",
    /// From port 1434.
    UdpSrcMssql = "udp_src_mssql",
    /// From port 1701.
    UdpSrcL2tp = "udp_src_l2tp",
    /// From port 1900, or a payload that begins `HTTP/1.1 200` from any port.
    UdpSrcSsdp = "udp_src_ssdp",
    /// From ports 32410 to 32414.
    UdpSrcPlex = "udp_src_plex",
    /// From port 3283.
    UdpSrcArd = "udp_src_ard",
    /// From port 3478.
    UdpSrcStun = "udp_src_stun",
    /// From port 3702.
    UdpSrcWsd = "udp_src_wsd",
    /// From port 5060.
    UdpSrcSip = "udp_src_sip",
    /// From port 5353.
    UdpSrcMdns = "udp_src_mdns",
    /// From port 5683.
    UdpSrcCoap = "udp_src_coap",
    /// From port 6881.
    UdpSrcBittorrent = "udp_src_bittorrent",
    /// From port 10001.
    UdpSrcUbiquiti = "udp_src_ubiquiti",
    /// From port 10074.
    UdpSrcMitel = "udp_src_mitel",
    /// From port 11211.
    UdpSrcMemcached = "udp_src_memcached",
    /// From port 27960.
    UdpSrcQuake = "udp_src_quake",
    /// From port 27015.
    UdpSrcSteam = "udp_src_steam",
    /// From port 33848.
    UdpSrcJenkins = "udp_src_jenkins",
    /// From port 37810.
    UdpSrcDvr = "udp_src_dvr",
    /// From port 47808.
    UdpSrcBacnet = "udp_src_bacnet",
    /// From port 443.
    UdpSrcQuic = "udp_src_quic",
    /// UDP without payload.
    UdpEmpty = "udp_empty",
    /// UDP with 1 to 100 bytes of payload.
    UdpSmall = "udp_small",
    /// UDP with 101 to 999 bytes of payload.
    UdpMedium = "udp_medium",
    /// UDP with 1000 bytes of payload or more.
    UdpLarge = "udp_large",
    /// ICMP echo request.
    IcmpEcho = "icmp_echo",
    /// ICMP echo reply.
    IcmpEchoReply = "icmp_echo_reply",
    /// ICMP destination unreachable.
    IcmpUnreachable = "icmp_unreachable",
    /// Any other ICMP.
    IcmpOther = "icmp_other",
    /// ICMPv6 echo request or reply.
    Icmp6Echo = "icmp6_echo",
    /// Neighbour and router discovery, redirect (types 133 to 137).
    Icmp6Nd = "icmp6_nd",
    /// Any other ICMPv6.
    Icmp6Other = "icmp6_other",
    /// GRE, counted once, by the outer packet.
    Gre = "gre",
    /// ESP or AH.
    EspAh = "esp_ah",
    /// IPv4 or IPv6 in IP, counted once, by the outer packet.
    Ipip = "ipip",
    /// SCTP.
    Sctp = "sctp",
    /// IGMP.
    Igmp = "igmp",
    /// Any other protocol.
    OtherProto = "other_proto",
}

const _: () = assert!(TrafficClass::COUNT <= CLASS_SLOTS);

/// See [`TrafficClass::is_no_business`], a bit for each.
const NO_BUSINESS: u64 = {
    use TrafficClass::*;
    1 << UdpSrcChargen as u32
        | 1 << UdpSrcQotd as u32
        | 1 << UdpSrcMemcached as u32
        | 1 << UdpSrcSsdp as u32
        | 1 << UdpSrcWsd as u32
        | 1 << UdpSrcCldap as u32
        | 1 << UdpSrcArd as u32
        | 1 << UdpSrcCoap as u32
        | 1 << UdpSrcPlex as u32
        | 1 << UdpSrcJenkins as u32
        | 1 << UdpSrcDvr as u32
        | 1 << UdpSrcUbiquiti as u32
        | 1 << UdpSrcMitel as u32
        | 1 << UdpSrcBacnet as u32
};

impl TrafficClass {
    /// Returns the number of this class: its index in the counters.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Returns the class with this number, or `None` past the last.
    pub fn from_index(index: usize) -> Option<Self> {
        Self::ALL.get(index).copied()
    }

    /// Returns whether an edge node has no business receiving it: nothing that it could have asked for
    /// answers from there.
    pub const fn is_no_business(self) -> bool {
        Self::is_no_business_at(self as u32)
    }

    /// As [`Self::is_no_business`], by number.
    #[inline(always)]
    pub const fn is_no_business_at(index: u32) -> bool {
        index < u64::BITS && NO_BUSINESS >> index & 1 != 0
    }

    /// Returns the class with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|c| c.as_str() == name)
    }
}

/// By name: numbers are an ABI of one machine, names are what is written down.
#[cfg(feature = "user")]
impl serde::Serialize for TrafficClass {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

#[cfg(feature = "user")]
impl<'de> serde::Deserialize<'de> for TrafficClass {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;

        impl serde::de::Visitor<'_> for Name {
            type Value = TrafficClass;

            fn expecting(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.write_str("the name of a traffic class")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<TrafficClass, E> {
                TrafficClass::from_name(name).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(name), &self))
            }
        }
        deserializer.deserialize_str(Name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_numbers_are_positions() {
        for (i, class) in TrafficClass::ALL.into_iter().enumerate() {
            assert_eq!(class.index(), i);
            assert_eq!(TrafficClass::from_index(i), Some(class));
            assert_eq!(TrafficClass::from_name(class.as_str()), Some(class));
        }
        assert_eq!(TrafficClass::from_index(TrafficClass::COUNT), None);
    }
}
