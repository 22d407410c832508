//! Bits of choices: to and from the places of a mask, and whether groups are alike.

/// Puts the bits of `chosen`, one for each set bit of `mask` from bit `skip` on, at the places of these set
/// bits: `out` is the part of `mask` that is chosen.
pub fn deposit(chosen: &[u64], mask: &[u64], out: &mut [u64]) {
    let mut next = 0;
    for (out, mask) in out.iter_mut().zip(mask) {
        *out = 0;
        let mut left = *mask;
        while left != 0 {
            let place = left & left.wrapping_neg();
            if chosen[next / 64] >> (next % 64) & 1 == 1 {
                *out |= place;
            }
            next += 1;
            left ^= place;
        }
    }
}

/// Inverse of [`deposit`]: the bits of `chosen` at the set bits of `mask`, one after the other.
pub fn extract(chosen: &[u64], mask: &[u64], out: &mut [u64]) {
    out.fill(0);
    let mut next = 0;
    for (chosen, mask) in chosen.iter().zip(mask) {
        let mut left = *mask;
        while left != 0 {
            let place = left & left.wrapping_neg();
            out[next / 64] |= u64::from(chosen & place != 0) << (next % 64);
            next += 1;
            left ^= place;
        }
    }
}

/// Whether all groups of `m` neighbouring bits have `n` set ones. `m` is 2, 4, 8 or 16 and divides `len`, the
/// number of bits.
pub fn uniform_groups(bits: &[u64], len: usize, m: usize, n: usize) -> bool {
    // Sums of neighbours, each in a field of its own.
    let pairs = |w: u64| (w & 0x5555_5555_5555_5555) + (w >> 1 & 0x5555_5555_5555_5555);
    let fours = |w: u64| (w & 0x3333_3333_3333_3333) + (w >> 2 & 0x3333_3333_3333_3333);
    let eights = |w: u64| (w & 0x0F0F_0F0F_0F0F_0F0F) + (w >> 4 & 0x0F0F_0F0F_0F0F_0F0F);
    let sixteens = |w: u64| (w & 0x00FF_00FF_00FF_00FF) + (w >> 8 & 0x00FF_00FF_00FF_00FF);
    let sums = |w: u64| match m {
        2 => pairs(w),
        4 => fours(pairs(w)),
        8 => eights(fours(pairs(w))),
        _ => sixteens(eights(fours(pairs(w)))),
    };
    // A one in each field, times what each must hold.
    let ones = u64::MAX / ((1 << m) - 1);
    let wanted = ones * n as u64;
    let (whole, rest) = bits.split_at((len / 64).min(bits.len()));
    whole.iter().all(|w| sums(*w) == wanted)
        && rest.first().is_none_or(|w| {
            let used = (1_u64 << (len % 64)) - 1;
            len.is_multiple_of(64) || sums(*w) == wanted & used
        })
}
