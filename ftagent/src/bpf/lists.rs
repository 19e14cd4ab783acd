//! Block lists, feeds and the allow list in the kernel: the host's side of `ftagent-ebpf/src/lists.rs`.
//!
//! *Blocks* and *allows* are changed in place, one entry at a time, each with its own expiry.
//! *Feeds* are replaced as a whole: the next generation is built beside the active one, in fresh
//! inner maps and the other half of the prefilter, and one 32-bit store flips to it. No packet
//! meets a half-built list.

use std::{
    mem::offset_of,
    net::IpAddr,
    os::fd::{AsFd as _, OwnedFd},
};

use aya::{
    Ebpf, Pod,
    maps::{HashMap, Map, MapData, MapError},
};
use ftagent_common::{
    abi::{Control, flags, maps},
    lists::{
        EXACT, FILTER4_WORDS, FILTER6_WORDS, Key4, Key6, Lengths, ListEntry, PREFIX, filter4, filter4_host,
        filter4_wide, filter6_long, filter6_short,
    },
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::load::{LoadError, fd, io, map, open_map};
use crate::sys::{self, mmap::MappedArray};

type Hash<K> = HashMap<MapData, K, ListEntry>;

/// Entries per batch update: 1.5 MiB of keys and values.
const BATCH: usize = 65_536;

/// The lists in the kernel.
#[derive(Debug)]
pub struct Lists {
    control: MappedArray<Control>,
    filter4: MapData,
    filter6: MapData,
    block: Pair,
    allow: Pair,
    feed4: MapData,
    feed6: MapData,
    /// The active half of the feeds, to look into: a process without CAP_SYS_ADMIN cannot get an
    /// inner map back from the outer one. `None` until they were published once.
    feeds: Option<Pair>,
}

/// A list of both families.
#[derive(Debug)]
struct Pair {
    v4: Hash<Key4>,
    v6: Hash<Key6>,
}

impl Pair {
    fn find(&self, address: IpAddr, lengths: &Lengths) -> Option<(IpNet, ListEntry)> {
        let used = lengths.lengths.iter().take(lengths.count as usize);
        used.filter_map(|length| IpNet::new(address, *length).ok()).find_map(|net| {
            let net = net.trunc();
            let entry = match net {
                IpNet::V4(net) => self.v4.get(&key4(net), 0),
                IpNet::V6(net) => self.v6.get(&key6(net), 0),
            };
            Some((net, entry.ok()?))
        })
    }
}

/// Which of the lists that are changed in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The block list.
    Block,
    /// The allow list.
    Allow,
}

impl Which {
    fn flag(self, net: &IpNet) -> u32 {
        match (self, net) {
            (Self::Block, IpNet::V4(_)) => flags::BLOCK4,
            (Self::Block, IpNet::V6(_)) => flags::BLOCK6,
            (Self::Allow, IpNet::V4(_)) => flags::ALLOW4,
            (Self::Allow, IpNet::V6(_)) => flags::ALLOW6,
        }
    }

    fn lengths_offset(self, net: &IpNet) -> usize {
        match (self, net) {
            (Self::Block, IpNet::V4(_)) => offset_of!(Control, block4),
            (Self::Block, IpNet::V6(_)) => offset_of!(Control, block6),
            (Self::Allow, IpNet::V4(_)) => offset_of!(Control, allow4),
            (Self::Allow, IpNet::V6(_)) => offset_of!(Control, allow6),
        }
    }
}

/// Prefixes of all feeds, with the feed each came from. Host bits are clear.
#[derive(Clone, Debug, Default)]
pub struct FeedSet {
    /// IPv4 prefixes.
    pub v4: Vec<(Key4, u32)>,
    /// IPv6 prefixes.
    pub v6: Vec<(Key6, u32)>,
}

impl FeedSet {
    /// Adds a prefix.
    pub fn push(&mut self, net: IpNet, origin: u32) {
        match net {
            IpNet::V4(net) => self.v4.push((key4(net), origin)),
            IpNet::V6(net) => self.v6.push((key6(net), origin)),
        }
    }

    /// Returns the number of prefixes.
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Returns whether there is no prefix.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Removes doubles, keeping the entry of the feed with the lowest number.
    fn tidy(&mut self) {
        self.v4.sort_unstable();
        self.v4.dedup_by_key(|(key, _)| *key);
        self.v6.sort_unstable();
        self.v6.dedup_by_key(|(key, _)| *key);
    }
}

/// Returns the key of a prefix.
pub fn key4(net: Ipv4Net) -> Key4 {
    Key4 { network: net.network().to_bits(), length: u32::from(net.prefix_len()) }
}

/// Returns the key of a prefix.
pub fn key6(net: Ipv6Net) -> Key6 {
    let bits = net.network().to_bits();
    Key6 { high: (bits >> 64) as u64, low: bits as u64, length: u32::from(net.prefix_len()), _pad: 0 }
}

/// Returns the prefix of a key.
pub fn net4(key: Key4) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(key.network.into(), key.length.min(32) as u8))
}

/// Returns the prefix of a key.
pub fn net6(key: Key6) -> IpNet {
    let bits = (u128::from(key.high) << 64) | u128::from(key.low);
    IpNet::V6(Ipv6Net::new_assert(bits.into(), key.length.min(128) as u8))
}

impl Lists {
    /// Opens the lists of a loaded object. Pinned lists keep what is in them.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn open(ebpf: &Ebpf) -> Result<Self, LoadError> {
        let control = MappedArray::new(fd(ebpf, maps::CONTROL)?, 1).map_err(io("mapping `control`"))?;
        let mut lists = Self {
            control,
            filter4: open_map(ebpf, maps::FILTER4)?,
            filter6: open_map(ebpf, maps::FILTER6)?,
            block: Pair { v4: hash(ebpf, maps::BLOCK4)?, v6: hash(ebpf, maps::BLOCK6)? },
            allow: Pair { v4: hash(ebpf, maps::ALLOW4)?, v6: hash(ebpf, maps::ALLOW6)? },
            feed4: open_map(ebpf, maps::FEED4)?,
            feed6: open_map(ebpf, maps::FEED6)?,
            feeds: None,
        };
        if lists.control.get(0).abi == 0 {
            lists.control.set(0, Control::EMPTY);
        }
        Ok(lists)
    }

    /// Adds or replaces an entry, in force when this returns.
    ///
    /// # Errors
    /// Where the map is full or refuses.
    pub fn insert(&mut self, which: Which, net: IpNet, expires: u64, origin: u32) -> Result<(), LoadError> {
        // 0 would mean "shared", and these lists share nothing.
        let entry = ListEntry { expires: expires.max(1), origin, last_match: 0 };
        let pair = self.pair(which);
        match net {
            IpNet::V4(net) => pair.v4.insert(key4(net), entry, 0).map_err(map(maps::BLOCK4))?,
            IpNet::V6(net) => pair.v6.insert(key6(net), entry, 0).map_err(map(maps::BLOCK6))?,
        }
        // The entry is there before anything points at it.
        self.add_length(which, &net);
        let mut set = which.flag(&net);
        if which == Which::Block {
            let mut filter = self.filter()?;
            filter.add(self.half(), net);
            set |= filter.short6;
        }
        self.set_flags(set, 0);
        Ok(())
    }

    /// Removes an entry; returns whether it was there. The prefilter keeps its bit until the
    /// next generation, which costs a lookup and changes no verdict.
    ///
    /// # Errors
    /// Where the map refuses.
    pub fn remove(&mut self, which: Which, net: IpNet) -> Result<bool, LoadError> {
        let pair = self.pair(which);
        let result = match net {
            IpNet::V4(net) => pair.v4.remove(&key4(net)),
            IpNet::V6(net) => pair.v6.remove(&key6(net)),
        };
        match result {
            Ok(()) => {
                self.idle_when_empty(which, &net);
                Ok(true)
            }
            Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(MapError::KeyNotFound) => Ok(false),
            Err(error) => Err(map(maps::BLOCK4)(error)),
        }
    }

    /// Switches a list off that became empty, and forgets the lengths it used: the passing path is
    /// then as if it had never been. Lengths of a list in use stay, because they cannot be
    /// rewritten without a packet meeting half of them.
    fn idle_when_empty(&mut self, which: Which, net: &IpNet) {
        let pair = self.pair(which);
        let empty = match net {
            IpNet::V4(_) => pair.v4.keys().next().is_none(),
            IpNet::V6(_) => pair.v6.keys().next().is_none(),
        };
        if empty {
            self.set_flags(0, which.flag(net));
            self.control.store(0, which.lengths_offset(net) + offset_of!(Lengths, count), 0u32);
        }
    }

    /// Returns the entry for exactly this prefix.
    pub fn get(&self, which: Which, net: IpNet) -> Option<ListEntry> {
        let pair = match which {
            Which::Block => &self.block,
            Which::Allow => &self.allow,
        };
        match net {
            IpNet::V4(net) => pair.v4.get(&key4(net), 0).ok(),
            IpNet::V6(net) => pair.v6.get(&key6(net), 0).ok(),
        }
    }

    /// Returns the entry that covers an address, as the kernel finds it; expired ones are none.
    /// `now`: the present jiffy.
    pub fn find(&self, which: Which, address: IpAddr, now: u64) -> Option<(IpNet, ListEntry)> {
        let control = self.control.get(0);
        let (pair, lengths) = match (which, address) {
            (Which::Block, IpAddr::V4(_)) => (&self.block, control.block4),
            (Which::Block, IpAddr::V6(_)) => (&self.block, control.block6),
            (Which::Allow, IpAddr::V4(_)) => (&self.allow, control.allow4),
            (Which::Allow, IpAddr::V6(_)) => (&self.allow, control.allow6),
        };
        pair.find(address, &lengths).filter(|(_, entry)| entry.expires > now)
    }

    /// Returns the entry of the feeds that covers an address.
    pub fn find_in_feeds(&self, address: IpAddr, now: u64) -> Option<(IpNet, ListEntry)> {
        let control = self.control.get(0);
        let half = self.half() as usize;
        let lengths = if address.is_ipv4() { control.feed4.get(half) } else { control.feed6.get(half) };
        let found = self.feeds.as_ref()?.find(address, lengths?)?;
        Some(found).filter(|_| control.feed_expires > now)
    }

    /// Returns every entry of a list.
    ///
    /// # Errors
    /// Where the map refuses.
    pub fn entries(&self, which: Which) -> Result<Vec<(IpNet, ListEntry)>, LoadError> {
        let pair = match which {
            Which::Block => &self.block,
            Which::Allow => &self.allow,
        };
        let v4 = pair.v4.iter().map(|item| item.map(|(key, entry)| (net4(key), entry)));
        let v6 = pair.v6.iter().map(|item| item.map(|(key, entry)| (net6(key), entry)));
        v4.chain(v6).collect::<Result<_, _>>().map_err(map(maps::BLOCK4))
    }

    /// Replaces all feeds by one atomic flip. The entries count until the jiffy `expires`, which
    /// [`Self::renew_feeds`] moves on.
    ///
    /// # Errors
    /// Where memory or a map refuses; the active generation is then untouched.
    pub fn publish_feeds(&mut self, mut feeds: FeedSet, expires: u64) -> Result<(), LoadError> {
        feeds.tidy();
        let next = 1 - self.half();
        let inner4 = filled(&feeds.v4, maps::FEED4)?;
        let inner6 = filled(&feeds.v6, maps::FEED6)?;
        set_inner(&self.feed4, next, &inner4, maps::FEED4)?;
        set_inner(&self.feed6, next, &inner6, maps::FEED6)?;
        let stride = size_of::<Lengths>() * next as usize;
        let lengths4 = lengths(feeds.v4.iter().map(|(key, _)| key.length));
        let lengths6 = lengths(feeds.v6.iter().map(|(key, _)| key.length));
        self.control.store(0, offset_of!(Control, feed4) + stride, lengths4);
        self.control.store(0, offset_of!(Control, feed6) + stride, lengths6);

        let mut filter = self.filter()?;
        filter.clear(next);
        feeds.v4.iter().for_each(|(key, _)| filter.add4(next, *key));
        feeds.v6.iter().for_each(|(key, _)| filter.add6(next, *key));
        for (net, _) in self.entries(Which::Block)? {
            filter.add(next, net);
        }
        self.control.store(0, offset_of!(Control, feed_expires), expires);
        let mut set = filter.short6 | if next == 1 { flags::HALF } else { 0 };
        set |= if feeds.v4.is_empty() { 0 } else { flags::FEED4 };
        set |= if feeds.v6.is_empty() { 0 } else { flags::FEED6 };
        self.set_flags(set, flags::HALF | flags::FEED4 | flags::FEED6 | flags::SHORT6);

        // A packet that read the flags before the flip may still be on its way to the old maps.
        // Updates of map-in-map entries return when every program that was running has ended
        // (kernel/bpf/syscall.c, maybe_wait_bpf_programs): putting the new map where it is waits
        // for those packets, and only then does the old generation go.
        set_inner(&self.feed4, next, &inner4, maps::FEED4)?;
        let old = 1 - next;
        self.feeds = Some(Pair { v4: opened(&inner4, maps::FEED4)?, v6: opened(&inner6, maps::FEED6)? });
        set_inner(&self.feed4, old, &filled::<Key4>(&[], maps::FEED4)?, maps::FEED4)?;
        set_inner(&self.feed6, old, &filled::<Key6>(&[], maps::FEED6)?, maps::FEED6)
    }

    /// Moves the shared expiry of the feeds to the jiffy `expires`.
    pub fn renew_feeds(&mut self, expires: u64) {
        self.control.store(0, offset_of!(Control, feed_expires), expires);
    }

    fn pair(&mut self, which: Which) -> &mut Pair {
        match which {
            Which::Block => &mut self.block,
            Which::Allow => &mut self.allow,
        }
    }

    fn half(&self) -> u32 {
        self.control.get(0).flags >> 31
    }

    /// Sets and clears flags by one store: halves and what is in them change together.
    fn set_flags(&mut self, set: u32, clear: u32) {
        let now = self.control.get(0).flags;
        self.control.store(0, offset_of!(Control, flags), now & !clear | set);
    }

    fn add_length(&mut self, which: Which, net: &IpNet) {
        let control = self.control.get(0);
        let lengths = match (which, net) {
            (Which::Block, IpNet::V4(_)) => control.block4,
            (Which::Block, IpNet::V6(_)) => control.block6,
            (Which::Allow, IpNet::V4(_)) => control.allow4,
            (Which::Allow, IpNet::V6(_)) => control.allow6,
        };
        let count = lengths.count as usize;
        let known = lengths.lengths.iter().take(count).any(|&length| length == net.prefix_len());
        if !known && count < lengths.lengths.len() {
            let offset = which.lengths_offset(net);
            self.control.store(0, offset + offset_of!(Lengths, lengths) + count, net.prefix_len());
            self.control.store(0, offset + offset_of!(Lengths, count), lengths.count + 1);
        }
    }

    fn filter(&self) -> Result<Filter, LoadError> {
        let v4 =
            MappedArray::new(self.filter4.fd().as_fd(), 2 * FILTER4_WORDS as usize).map_err(io("mapping `filter4`"))?;
        let v6 =
            MappedArray::new(self.filter6.fd().as_fd(), 2 * FILTER6_WORDS as usize).map_err(io("mapping `filter6`"))?;
        Ok(Filter { v4, v6, short6: 0 })
    }
}

/// The prefilter, mapped for as long as it is written: the kernel maps all of its 14 MiB at once.
struct Filter {
    v4: MappedArray<u64>,
    v6: MappedArray<u64>,
    /// [`flags::SHORT6`] once a prefix was added that the filter cannot tell.
    short6: u32,
}

impl Filter {
    fn clear(&mut self, half: u32) {
        (0..FILTER4_WORDS).for_each(|word| self.v4.set((half * FILTER4_WORDS + word) as usize, 0));
        (0..FILTER6_WORDS).for_each(|word| self.v6.set((half * FILTER6_WORDS + word) as usize, 0));
    }

    fn add(&mut self, half: u32, net: IpNet) {
        match net {
            IpNet::V4(net) => self.add4(half, key4(net)),
            IpNet::V6(net) => self.add6(half, key6(net)),
        }
    }

    fn add4(&mut self, half: u32, key: Key4) {
        // The /16s that the prefix touches: one, or all below a shorter prefix.
        let first = key.network >> 16;
        for net16 in first..first + (1 << 16u32.saturating_sub(key.length)) {
            let (word, shift) = filter4_wide(net16 << 16);
            set_bits(&mut self.v4, half * FILTER4_WORDS + word, 1 << shift);
        }
        let (word, shift) = filter4(key.network);
        match key.length {
            0..=24 => {}
            32 => {
                let (host, bit) = filter4_host(key.network);
                set_bits(&mut self.v4, half * FILTER4_WORDS + host, 1 << bit);
                return set_bits(&mut self.v4, half * FILTER4_WORDS + word, u64::from(EXACT) << shift);
            }
            _ => return set_bits(&mut self.v4, half * FILTER4_WORDS + word, u64::from(PREFIX) << shift),
        }
        // Every /24 below the prefix, a word (32 of them) at a time where it can be.
        let first = key.network >> 8;
        let last = first + (1 << (24 - key.length)) - 1;
        let mut net24 = first;
        while net24 <= last {
            let (word, shift) = filter4(net24 << 8);
            if shift == 0 && last - net24 >= 31 {
                set_bits(&mut self.v4, half * FILTER4_WORDS + word, EVERY_PREFIX);
                net24 += 32;
            } else {
                set_bits(&mut self.v4, half * FILTER4_WORDS + word, u64::from(PREFIX) << shift);
                net24 += 1;
            }
        }
    }

    fn add6(&mut self, half: u32, key: Key6) {
        let (word, shift) = match key.length {
            48.. => filter6_long(key.high),
            32..48 => filter6_short(key.high),
            _ => {
                self.short6 = flags::SHORT6;
                return;
            }
        };
        set_bits(&mut self.v6, half * FILTER6_WORDS + word, 1 << shift);
    }
}

/// [`PREFIX`] of all 32 networks in a word.
const EVERY_PREFIX: u64 = 0xaaaa_aaaa_aaaa_aaaa;

fn set_bits(filter: &mut MappedArray<u64>, word: u32, bits: u64) {
    let word = word as usize;
    let now = filter.get(word);
    if now & bits != bits {
        filter.set(word, now | bits);
    }
}

/// Collects the lengths in use, those with the most prefixes first: any match will do.
fn lengths(all: impl Iterator<Item = u32>) -> Lengths {
    let mut prefixes = [0u32; 129];
    all.for_each(|length| prefixes[length.min(128) as usize] += 1);
    let mut used: Vec<usize> = (0..prefixes.len()).filter(|&length| prefixes[length] > 0).collect();
    used.sort_by_key(|&length| std::cmp::Reverse(prefixes[length]));
    let mut lengths = Lengths::EMPTY;
    for (slot, length) in lengths.lengths.iter_mut().zip(&used) {
        *slot = *length as u8;
    }
    lengths.count = used.len() as u32;
    lengths
}

/// Makes an inner map that holds exactly these entries.
fn filled<K: Pod>(entries: &[(K, u32)], name: &'static str) -> Result<OwnedFd, LoadError> {
    let hash = sys::bpf::create_hash::<K, ListEntry>(entries.len().max(1) as u32)
        .map_err(io(format!("making an inner map of `{name}` for {} entries", entries.len())))?;
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    for chunk in entries.chunks(BATCH) {
        keys.clear();
        values.clear();
        keys.extend(chunk.iter().map(|(key, _)| *key));
        values.extend(chunk.iter().map(|&(_, origin)| ListEntry { expires: 0, origin, last_match: 0 }));
        sys::bpf::update_batch(hash.as_fd(), &keys, &values).map_err(io(format!("filling `{name}`")))?;
    }
    Ok(hash)
}

fn set_inner(outer: &MapData, index: u32, inner: &OwnedFd, name: &'static str) -> Result<(), LoadError> {
    sys::bpf::set_inner_map(outer.fd().as_fd(), index, inner.as_fd()).map_err(io(format!("replacing `{name}`")))
}

/// Opens an inner map to look into it.
fn opened<K: Pod>(inner: &OwnedFd, name: &'static str) -> Result<Hash<K>, LoadError> {
    let data = MapData::from_fd(inner.try_clone().map_err(io(format!("keeping an inner map of `{name}`")))?);
    HashMap::try_from(Map::HashMap(data.map_err(map(name))?)).map_err(map(name))
}

fn hash<K: Pod>(ebpf: &Ebpf, name: &'static str) -> Result<Hash<K>, LoadError> {
    HashMap::try_from(Map::HashMap(open_map(ebpf, name)?)).map_err(map(name))
}
