//! Why a packet was dropped. One reason for every drop, one counter for every class and reason.

/// Room for reasons in the per-CPU counters.
pub const REASON_SLOTS: usize = 16;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])* $variant:ident = $name:literal,)*) => {
        /// Why the kernel program dropped a packet. Numbers are an ABI: append, never reorder.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[doc = $doc])* $variant,)*
        }

        impl DropReason {
            /// Every reason, in the order of its number.
            pub const ALL: [Self; Self::COUNT] = [$(Self::$variant),*];
            /// How many reasons there are.
            pub const COUNT: usize = [$(Self::$variant),*].len();

            /// Returns the name that users see, for example `block_address`.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Returns what it means, in words.
            pub const fn about(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),*),)* }
            }
        }
    };
}

reasons! {
    /// An operator's or the daemon's entry for exactly this source address.
    BlockAddress = "block_address",
    /// An operator's or the daemon's entry for a prefix that covers the source.
    BlockPrefix = "block_prefix",
    /// A block-list file names exactly this source address.
    FeedAddress = "feed_address",
    /// A block-list file names a prefix that covers the source.
    FeedPrefix = "feed_prefix",
    /// A signature rule that drops.
    Rule = "rule",
    /// More than a signature rule's rate.
    RateLimit = "rate_limit",
    /// A TCP segment that belongs to no connection, and that no listener accepts.
    OutOfState = "out_of_state",
    /// UDP to a port that nobody has open.
    ClosedPort = "closed_port",
    /// A SYN to a listener whose queue is full, or more SYNs than may be answered.
    QueueFull = "queue_full",
    /// More of a traffic class than this node was ever sent, or than it can take.
    Ceiling = "ceiling",
}

const _: () = assert!(DropReason::COUNT <= REASON_SLOTS);

impl DropReason {
    /// Returns the number of this reason: its index in the counters.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Returns the reason with this number, or `None` past the last.
    pub fn from_index(index: usize) -> Option<Self> {
        Self::ALL.get(index).copied()
    }
}

/// XDP verdicts as the kernel numbers them (`enum xdp_action`, uapi/linux/bpf.h).
pub mod verdict {
    /// The program failed; the kernel drops the packet. Never returned on purpose.
    pub const ABORTED: u32 = 0;
    /// Dropped in the driver.
    pub const DROP: u32 = 1;
    /// Handed to the stack.
    pub const PASS: u32 = 2;
    /// Sent back out of the interface it came from.
    pub const TX: u32 = 3;

    /// Returns the name users see.
    pub const fn name(verdict: u32) -> &'static str {
        match verdict {
            ABORTED => "aborted",
            DROP => "dropped",
            PASS => "passed",
            TX => "sent",
            _ => "unknown",
        }
    }
}
