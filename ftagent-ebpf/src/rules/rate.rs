//! Rate limits: one pool of tokens for all CPUs.
#![expect(unsafe_code, reason = "the BPF target has atomics in assembly only")]

use core::arch::asm;

use ftagent_common::rules::{Counter, DEBT_SHIFT, State};

/// Takes the tokens for a packet; returns whether there were any.
///
/// The pool is one for all CPUs. A CPU takes a chunk at a time and spends it on its own. Under a
/// flood the pool is empty and only read: its line stays shared. Two CPUs that take at once may
/// overdraw it; the debt is paid before anything else is given out, so the mean rate is exact.
#[inline(always)]
pub fn is_within(state: &mut State, counter: &mut Counter, cost: u64, now: u64) -> bool {
    let (chunk, burst) = (state.chunk, state.burst);
    // What is left of another rule's lease is no more than one of this rule's.
    let lease = counter.lease.min(chunk);
    if lease >= cost {
        counter.lease = lease - cost;
        return true;
    }
    let earned = state.per_jiffy.wrapping_mul(now);
    let spent = &raw mut state.spent;
    // SAFETY: the state's own field; other CPUs write it by atomic instructions only.
    let before = unsafe { spent.read_volatile() };
    let available = earned.wrapping_sub(before);
    // A rate of nothing has no burst either, and nobody's account.
    if burst == 0 || available == 0 || available.wrapping_neg() <= burst << DEBT_SHIFT {
        return false;
    }
    if available > burst {
        // More was saved up than may be, or the account is that of another rate.
        // SAFETY: as above.
        unsafe { exchange(spent, before, earned.wrapping_sub(burst)) };
    }
    let want = chunk.max(cost - lease);
    // SAFETY: as above.
    unsafe { add(spent, want) };
    counter.lease = lease + want - cost;
    true
}

/// Adds to a number that other CPUs add to.
///
/// # Safety
/// `to` is a field of a map value.
#[inline(always)]
unsafe fn add(to: *mut u64, value: u64) {
    // SAFETY: by the caller.
    unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) to, in(reg) value, options(nostack)) };
}

/// Replaces a number unless another CPU has changed it. Kernel 5.12.
///
/// # Safety
/// As for [`add`].
#[inline(always)]
unsafe fn exchange(at: *mut u64, old: u64, new: u64) {
    // Lints look at this as host code, which has no such register.
    #[cfg(target_arch = "bpf")]
    // SAFETY: by the caller.
    unsafe {
        asm!("r0 = cmpxchg_64({0} + 0, r0, {1})", in(reg) at, in(reg) new, inout("r0") old => _, options(nostack));
    }
    #[cfg(not(target_arch = "bpf"))]
    let _unused = (at, old, new);
}
