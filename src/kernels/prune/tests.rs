//! Every form of every kernel against the plainest way to say the same.

use super::pieces::Sink;
use super::*;
use proptest::prelude::*;

/// Values with ties, both zeros, denormals, extremes, and sometimes one that is not finite.
fn values() -> impl Strategy<Value = Vec<f32>> {
    let one = prop_oneof![
        6 => (-4_i8..4).prop_map(f32::from),
        4 => -1.0_f32..1.0,
        1 => prop::sample::select(vec![0.0, -0.0, f32::MIN_POSITIVE / 8.0, -1e-45, f32::MAX, f32::MIN]),
    ];
    let odd = prop::sample::select(vec![f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY]);
    let place = prop::option::weighted(0.2, (any::<prop::sample::Index>(), odd));
    (prop::collection::vec(one, 0..400), place).prop_map(|(mut values, place)| {
        if let (Some((at, odd)), false) = (place, values.is_empty()) {
            let at = at.index(values.len());
            values[at] = odd;
        }
        values
    })
}

fn pack(flags: impl IntoIterator<Item = bool>) -> Vec<u64> {
    let flags: Vec<bool> = flags.into_iter().collect();
    let word = |c: &[bool]| c.iter().enumerate().fold(0, |w, (i, on)| w | u64::from(*on) << i);
    flags.chunks(64).map(word).collect()
}

fn is_set(bits: &[u64], i: usize) -> bool {
    bits[i / 64] >> (i % 64) & 1 == 1
}

type Tally<T, B> = fn(&[T], B, B, &mut Vec<B>) -> Option<u64>;

/// One way to do all of it.
struct Form<T: Magnitude> {
    at_least: fn(&[T], T::Bits, &mut [u64]) -> bool,
    largest_of_groups: fn(&[T], usize, usize, usize, &mut [u64]) -> bool,
    tally: Tally<T, T::Bits>,
    compact: fn(&mut [T], usize, &[u64], usize) -> usize,
}

trait Forms: Magnitude + PartialEq + std::fmt::Debug {
    /// Those that this CPU has: what is used, the portable one, and others.
    fn forms() -> Vec<Form<Self>> {
        let used = Form {
            at_least: Self::at_least,
            largest_of_groups: Self::largest_of_groups,
            tally: Self::tally,
            compact: Self::compact,
        };
        let portable = Form {
            at_least: portable::at_least,
            largest_of_groups: portable::largest_of_groups,
            tally: portable::tally,
            compact: portable::compact,
        };
        let mut forms = vec![used, portable];
        forms.extend(Self::other());
        forms
    }

    fn other() -> Option<Form<Self>> {
        None
    }
}

impl Forms for f64 {}
impl Forms for f32 {
    #[cfg(target_arch = "x86_64")]
    fn other() -> Option<Form<Self>> {
        Avx2::new().map(|_| Form {
            at_least: |values, least, chosen| Avx2::new().unwrap().at_least(values, least, chosen),
            largest_of_groups: |values, n, m, stride, chosen| match (stride, m) {
                (1, 2 | 4 | 8) => Avx2::new().unwrap().largest_of_groups(values, n, m, chosen),
                _ => portable::largest_of_groups(values, n, m, stride, chosen),
            },
            tally: |values, low, high, inside| Avx2::new().unwrap().tally(values, low, high, inside),
            compact: |values, from, chosen, to| Avx2::new().unwrap().compact(values, from, chosen, to),
        })
    }
}

/// All forms and the plain way.
fn agrees<T: Forms>(values: &[T], least: u64, high: u64, flags: &[bool]) {
    let n = values.len();
    let finite = values.iter().all(|x| x.magnitude() < T::INFINITE);
    let least = T::capped(least);
    let high = T::capped(high).max(least);

    let expected = pack(values.iter().map(|x| x.magnitude() >= least));
    for form in T::forms() {
        let mut chosen = vec![u64::MAX; n.div_ceil(64)];
        assert_eq!((form.at_least)(values, least, &mut chosen), finite);
        assert_eq!(chosen, expected);
    }

    let below = values.iter().filter(|x| x.magnitude() < least).count() as u64;
    let within: Vec<T::Bits> =
        values.iter().map(|x| x.magnitude()).filter(|m| (least..=high).contains(m)).collect();
    for form in T::forms() {
        let mut inside = vec![T::LARGEST];
        let got = (form.tally)(values, least, high, &mut inside);
        assert_eq!(got, finite.then_some(below));
        if finite {
            assert_eq!(inside[0], T::LARGEST);
            assert_eq!(inside[1..], within);
        }
    }

    let chosen = pack((0..n).map(|i| flags[i % flags.len()]));
    for (from, to) in [(0, 0), (3, 0), (3, 3), (64, 1)] {
        for form in T::forms() {
            let mut all = vec![T::default(); from];
            all.extend_from_slice(values);
            let count = (form.compact)(&mut all, from, &chosen, to);
            let kept: Vec<T> =
                values.iter().enumerate().filter(|(i, _)| is_set(&chosen, *i)).map(|(_, x)| *x).collect();
            let bits = |v: &[T]| v.iter().map(|x| x.magnitude()).collect::<Vec<_>>();
            assert_eq!(bits(&all[to..to + count]), bits(&kept));
        }
    }
}

fn groups_agree<T: Forms>(values: &[T], n: usize, m: usize, stride: usize) {
    let span = m * stride;
    let values = &values[..values.len() / span * span];
    let finite = values.iter().all(|x| x.magnitude() < T::INFINITE);
    let mut flags = vec![false; values.len()];
    for start in (0..values.len()).step_by(span) {
        for k in 0..stride {
            let mut places: Vec<usize> = (0..m).map(|i| start + i * stride + k).collect();
            places.sort_by_key(|i| values[*i].magnitude());
            places[m - n..].iter().for_each(|i| flags[*i] = true);
        }
    }
    for form in T::forms() {
        let mut chosen = vec![u64::MAX; values.len().div_ceil(64)];
        assert_eq!((form.largest_of_groups)(values, n, m, stride, &mut chosen), finite);
        if finite {
            assert_eq!(chosen, pack(flags.iter().copied()));
        }
    }
}

proptest! {
    #[test]
    fn others_become_zero(values in values(), flags in prop::collection::vec(any::<bool>(), 400)) {
        let mut cleared = values.clone();
        clear_others(&mut cleared, &pack(flags[..values.len()].iter().copied()));
        for ((x, was), keep) in cleared.iter().zip(&values).zip(&flags) {
            prop_assert_eq!(x.to_bits(), if *keep { was.to_bits() } else { 0 });
        }
    }

    #[test]
    fn kernels_agree_with_plain_loops(
        values in values(), skip in 0_usize..4, least in prop_oneof![Just(0), Just(u64::MAX), 0_u64..1 << 31],
        pick in any::<prop::sample::Index>(), more in 0_u64..1 << 25, flags in prop::collection::vec(any::<bool>(), 1..99),
        few in any::<bool>(),
    ) {
        let values = &values[skip.min(values.len())..];
        let flags: Vec<bool> = flags.iter().enumerate().map(|(i, f)| *f && (!few || i % 7 == 0)).collect();
        agrees(values, least, least.saturating_add(more), &flags);
        if !values.is_empty() {
            let least = u64::from(values[pick.index(values.len())].magnitude());
            agrees(values, least, least + more, &flags);
        }
        let doubles: Vec<f64> = values.iter().map(|x| f64::from(*x)).collect();
        agrees(&doubles, least << 32, least.saturating_add(more) << 32, &flags);
    }

    #[test]
    fn groups_keep_their_largest(
        values in values(), m in prop::sample::select(vec![2_usize, 4, 8, 16]), n in 1_usize..16,
        stride in prop::sample::select(vec![1_usize, 1, 2, 5, 9]),
    ) {
        let n = n % m;
        groups_agree(&values, n, m, stride);
        let doubles: Vec<f64> = values.iter().map(|x| f64::from(*x)).collect();
        groups_agree(&doubles, n, m, stride);
    }

    #[test]
    fn bits_go_to_their_places_and_back(mask in prop::collection::vec(any::<u64>(), 0..9), seed in any::<u64>()) {
        let set: u32 = mask.iter().map(|w| w.count_ones()).sum();
        let set = set as usize;
        let chosen = pack((0..set).map(|i| (seed.rotate_left(i as u32) ^ i as u64) & 1 == 1));
        let mut out = vec![u64::MAX; mask.len()];
        deposit(&chosen, &mask, &mut out);
        let mut places = (0..mask.len() * 64).filter(|i| is_set(&mask, *i));
        let expected = pack((0..mask.len() * 64).map(|i| {
            is_set(&mask, i) && places.next().is_some() && {
                let rank = (0..i).filter(|j| is_set(&mask, *j)).count();
                is_set(&chosen, rank)
            }
        }));
        prop_assert_eq!(&out, &expected);
        let mut back = vec![u64::MAX; set.div_ceil(64)];
        extract(&out, &mask, &mut back);
        prop_assert_eq!(back, chosen);
    }

    #[test]
    fn uniform_groups_are_found(m in prop::sample::select(vec![2_usize, 4, 8, 16]), groups in 0_usize..40, n in 0_usize..=16, odd in any::<prop::sample::Index>(), spoil in any::<bool>()) {
        let n = n.min(m);
        let len = m * groups;
        // Each group starts its run of ones elsewhere.
        let mut flags: Vec<bool> = (0..len).map(|i| (i + i / m) % m < n).collect();
        let spoil = spoil && len > 0;
        if spoil {
            let at = odd.index(len);
            flags[at] = !flags[at];
        }
        prop_assert_eq!(uniform_groups(&pack(flags), len, m, n), !spoil);
    }

    #[test]
    fn pieces_are_closed_up(pieces in prop::collection::vec((0_usize..40, 0_usize..40), 0..60)) {
        let (sizes, lens): (Vec<usize>, Vec<usize>) = pieces.iter().map(|(a, b)| (*a.max(b), *a.min(b))).unzip();
        let value = |i: usize, k: usize| (i * 100 + k) as u32;
        let expected: Vec<u32> = lens.iter().enumerate().flat_map(|(i, n)| (0..*n).map(move |k| value(i, k))).collect();
        let mut values: Vec<u32> = sizes.iter().enumerate().flat_map(|(i, n)| (0..*n).map(move |k| value(i, k))).collect();
        let len = close_up(&mut values, &sizes, &lens);
        prop_assert_eq!(&values[..len], &expected[..]);
        let jobs = sizes.iter().copied().zip(0..).collect();
        let values = collect(jobs, || (), |i: usize, sink| {
            for k in 0..lens[i] {
                sink.extend_from_slice(&[value(i, k)]);
            }
            Ok(())
        }).unwrap();
        prop_assert_eq!(values, expected);
    }
}

#[test]
fn a_sink_takes_no_more_than_its_size() {
    let fill = |_: (), sink: &mut Sink<'_, u8>| {
        sink.extend_from_slice(&[7, 8, 9]);
        Ok::<_, ()>(())
    };
    assert_eq!(collect(vec![(2, ()), (1, ())], || (), fill).unwrap(), [7, 8, 7]);
    assert!(collect(Vec::new(), || (), fill).unwrap().is_empty());
    let failed = collect::<u8, usize, usize>(vec![(1, 3), (1, 4)], || 9, |i, _| Err(i));
    assert_eq!(failed.unwrap_err(), 3);
    let too_large = collect::<u64, (), usize>(vec![(usize::MAX / 16, ())], || 9, |(), _| Ok(()));
    assert_eq!(too_large.unwrap_err(), 9);
}
