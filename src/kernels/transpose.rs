//! Rows become columns, a square at a time.

#[cfg(target_arch = "x86_64")]
use super::cpu::Avx512;
use super::cpu::fast;
use bytemuck::Pod;

/// Rows of a square of the portable form.
const SIDE: usize = 8;

/// `to[j][i] = from[i][j]` for the number of `i` and of `j`, and rows that are so many values apart.
pub fn transpose<T: Pod>(
    (from, from_stride): (&[T], usize),
    [rows, columns]: [usize; 2],
    (to, to_stride): (&mut [T], usize),
) {
    if rows == 0 || columns == 0 {
        return;
    }
    let from = &from[..(rows - 1) * from_stride + columns];
    let to = &mut to[..(columns - 1) * to_stride + rows];
    #[cfg(target_arch = "x86_64")]
    if size_of::<T>() == 4
        && let Some(cpu) = Avx512::new()
    {
        return wide::transpose(cpu, (from, from_stride), [rows, columns], (to, to_stride));
    }
    fast(
        #[inline(always)]
        || plain((from, from_stride), [rows, columns], (to, to_stride)),
    );
}

#[inline(always)]
fn plain<T: Pod>(
    (from, from_stride): (&[T], usize),
    [rows, columns]: [usize; 2],
    (to, to_stride): (&mut [T], usize),
) {
    for i in (0..rows).step_by(SIDE) {
        let mut lines = [&[][..]; SIDE];
        for (k, line) in lines.iter_mut().enumerate() {
            *line = &from[(i + k).min(rows - 1) * from_stride..][..columns];
        }
        // What is written lies together.
        for (j, to) in to.chunks_mut(to_stride.max(1)).take(columns).enumerate() {
            let to = &mut to[i..];
            if let Some(to) = to.first_chunk_mut::<SIDE>().filter(|_| i + SIDE <= rows) {
                to.iter_mut().zip(lines).for_each(|(to, line)| *to = line[j]);
            } else {
                to.iter_mut().zip(&lines[..rows - i]).for_each(|(to, line)| *to = line[j]);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod wide {
    use crate::kernels::cpu::Avx512;
    use bytemuck::Pod;
    use std::arch::x86_64::{
        __m512, _mm512_castpd_ps, _mm512_castps_pd, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps,
        _mm512_setzero_ps, _mm512_shuffle_f32x4, _mm512_storeu_ps, _mm512_unpackhi_pd, _mm512_unpackhi_ps,
        _mm512_unpacklo_pd, _mm512_unpacklo_ps,
    };

    const SIDE: usize = 16;

    /// Both slices end with the last value of their last row, and there are rows.
    pub fn transpose<T: Pod>(
        _: Avx512,
        (from, from_stride): (&[T], usize),
        [rows, columns]: [usize; 2],
        (to, to_stride): (&mut [T], usize),
    ) {
        assert!(size_of::<T>() == 4 && rows > 0 && columns > 0);
        assert!(from.len() == (rows - 1) * from_stride + columns);
        assert!(to.len() == (columns - 1) * to_stride + rows);
        let (from, to) = (from.as_ptr().cast::<f32>(), to.as_mut_ptr().cast::<f32>());
        for i in (0..rows).step_by(SIDE) {
            for j in (0..columns).step_by(SIDE) {
                let size = [SIDE.min(rows - i), SIDE.min(columns - j)];
                // SAFETY: an `Avx512` exists, so the CPU has the instructions. The square begins within both
                // matrices and ends within them, and these lie within the slices, as was just asked.
                #[allow(unsafe_code)]
                unsafe {
                    let from = from.add(i * from_stride + j);
                    square(from, from_stride, size, to.add(j * to_stride + i), to_stride);
                }
            }
        }
    }

    /// # Safety
    /// Of `from`, `height` rows of `width` values can be read; of `to`, `width` rows of `height` be written.
    #[target_feature(enable = "avx512f")]
    #[allow(unsafe_code)]
    unsafe fn square(
        from: *const f32,
        from_stride: usize,
        [height, width]: [usize; 2],
        to: *mut f32,
        to_stride: usize,
    ) {
        let (inside, across) = (u16::MAX >> (SIDE - width), u16::MAX >> (SIDE - height));
        let mut rows = [_mm512_setzero_ps(); SIDE];
        for (i, row) in rows.iter_mut().enumerate() {
            // The last row again where there are no more.
            // SAFETY: a row that is there, and of it what the mask says.
            *row = unsafe { _mm512_maskz_loadu_ps(inside, from.add(i.min(height - 1) * from_stride)) };
        }
        for (j, column) in turn(rows).into_iter().enumerate() {
            if j < width {
                // SAFETY: a row that is there, and of it what the mask says.
                unsafe {
                    let to = to.add(j * to_stride);
                    if height == SIDE {
                        _mm512_storeu_ps(to, column);
                    } else {
                        _mm512_mask_storeu_ps(to, across, column);
                    }
                }
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn turn(rows: [__m512; SIDE]) -> [__m512; SIDE] {
        let (low, high) = (
            |a, b| _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b))),
            |a, b| _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b))),
        );
        // `fours[c][g]`: in each quarter `q`, column `4 q + c` of the rows `4 g..`.
        let mut fours = [[_mm512_setzero_ps(); 4]; 4];
        for g in 0..4 {
            let [a, b, c, d] = [rows[4 * g], rows[4 * g + 1], rows[4 * g + 2], rows[4 * g + 3]];
            let (ab, cd) = (_mm512_unpacklo_ps(a, b), _mm512_unpacklo_ps(c, d));
            (fours[0][g], fours[1][g]) = (low(ab, cd), high(ab, cd));
            let (ab, cd) = (_mm512_unpackhi_ps(a, b), _mm512_unpackhi_ps(c, d));
            (fours[2][g], fours[3][g]) = (low(ab, cd), high(ab, cd));
        }
        let mut columns = rows;
        for (c, [p, q, r, s]) in fours.into_iter().enumerate() {
            // The even quarters, and the odd ones.
            let (pq, rs) = (_mm512_shuffle_f32x4::<0x88>(p, q), _mm512_shuffle_f32x4::<0x88>(r, s));
            columns[c] = _mm512_shuffle_f32x4::<0x88>(pq, rs);
            columns[8 + c] = _mm512_shuffle_f32x4::<0xdd>(pq, rs);
            let (pq, rs) = (_mm512_shuffle_f32x4::<0xdd>(p, q), _mm512_shuffle_f32x4::<0xdd>(r, s));
            columns[4 + c] = _mm512_shuffle_f32x4::<0x88>(pq, rs);
            columns[12 + c] = _mm512_shuffle_f32x4::<0xdd>(pq, rs);
        }
        columns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: Pod + PartialEq + std::fmt::Debug>(number: impl Fn(usize) -> T) {
        for [rows, columns] in
            [[0, 3], [3, 0], [1, 1], [16, 16], [5, 37], [17, 16], [40, 33], [8, 70], [7, 1]]
        {
            for (from_apart, to_apart) in [(0, 0), (3, 5)] {
                let (from_stride, to_stride) = (columns + from_apart, rows + to_apart);
                let from: Vec<T> = (0..rows * from_stride).map(&number).collect();
                let before = vec![number(1 << 20); columns * to_stride];
                let mut wanted = before.clone();
                for i in 0..rows {
                    for j in 0..columns {
                        wanted[j * to_stride + i] = from[i * from_stride + j];
                    }
                }
                let mut to = before.clone();
                transpose((&from, from_stride), [rows, columns], (&mut to, to_stride));
                assert_eq!(to, wanted, "{rows} x {columns}");
                if rows * columns > 0 {
                    let mut to = before;
                    plain((&from, from_stride), [rows, columns], (&mut to, to_stride));
                    assert_eq!(to, wanted, "{rows} x {columns}, portable");
                }
            }
        }
    }

    #[test]
    fn equals_its_definition() {
        check(|i| i as f32);
        check(|i| i as f64);
        check(|i| i as i32);
        check(|i| i as u16);
    }
}
