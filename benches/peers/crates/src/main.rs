//! Peers written in Rust: one process a row, as `peers.py` is, which runs a round of the peer named on each line
//! of standard input.
//!
//! ```console
//! $ echo gemm | crates FOLDER 4096 4096 8 16    # of the values; rows, columns, matrices, rows of input
//! {"who":"gemm","ms":2.61,"calls":15}
//! ```

mod candle;
mod float;
mod rten;
mod tract;
mod work;

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};
use work::{Call, Error, Work};

/// As on our side.
const ROUND: Duration = Duration::from_millis(300);

fn make<'a>(who: &str, work: &'a Work) -> Result<Call<'a>, Error> {
    use candle_core::quantized::GgmlDType::{Q4_0, Q4_1, Q4K, Q8_0};
    use candle_core::quantized::k_quants::{BlockQ4_0, BlockQ8_0};
    match who {
        "candle QTensor::quantize Q8_0" => candle::quantize(work, Q8_0),
        "candle QTensor::quantize Q4_0" => candle::quantize(work, Q4_0),
        "candle QTensor::quantize Q4_1" => candle::quantize(work, Q4_1),
        "candle QTensor::quantize Q4K" => candle::quantize(work, Q4K),
        "candle from_float Q8_0, shared out" => candle::quantize_shared_out::<BlockQ8_0>(work),
        "candle from_float Q4_0, shared out" => candle::quantize_shared_out::<BlockQ4_0>(work),
        "candle dequantize Q8_0" => candle::dequantize(work, Q8_0),
        "candle to_float Q8_0, shared out" => candle::dequantize_shared_out::<BlockQ8_0>(work),
        "candle QMatMul Q8_0" => candle::matmul(work, Q8_0),
        "candle QMatMul Q4_0" => candle::matmul(work, Q4_0),
        "candle QMatMul Q4K" => candle::matmul(work, Q4K),
        "faer matmul" => float::faer(work),
        "gemm" => float::gemm(work),
        "rten-gemm" => rten::float(work),
        "rten-gemm u8 x i8" => rten::integers(work, work.input_u8()),
        "rten-gemm 4 bits" => rten::four_bits(work),
        "rten-gemm 4 bits, int8 activations" => rten::four_bits_int8(work),
        "tract-linalg" => tract::float(work),
        "tract-linalg i8 x i8" => tract::integers(work, work.input_i8()),
        "tract-linalg Q4_0" => tract::four_bits(work),
        _ => Err("no such peer".into()),
    }
}

fn round(call: &mut Call<'_>) -> Result<(f64, usize), Error> {
    // It may map memory.
    call()?;
    let mut times = Vec::new();
    let begin = Instant::now();
    while times.is_empty() || begin.elapsed() < ROUND {
        times.push(call()?);
    }
    times.sort_unstable();
    Ok((times[times.len() / 2].as_secs_f64() * 1e3, times.len()))
}

fn main() -> Result<(), Error> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [folder, rows, cols, copies, batch] = args.as_slice() else {
        return Err("usage: crates FOLDER ROWS COLUMNS MATRICES BATCH".into());
    };
    let work = Work::new(folder.into(), rows.parse()?, cols.parse()?, copies.parse()?, batch.parse()?)?;
    let mut made = BTreeMap::new();
    for who in std::io::stdin().lines() {
        let who = who?;
        // A peer that fails is a line in the table.
        let error = |error: String| json!({ "who": who, "error": error });
        let answer = match catch_unwind(AssertUnwindSafe(|| answer(&who, &work, &mut made))) {
            Ok(answer) => answer.unwrap_or_else(|fault| error(fault.to_string())),
            Err(_) => error("it panicked".into()),
        };
        println!("{answer}");
    }
    Ok(())
}

fn answer<'a>(who: &str, work: &'a Work, made: &mut BTreeMap<String, Call<'a>>) -> Result<Value, Error> {
    if !made.contains_key(who) {
        made.insert(who.into(), make(who, work)?);
    }
    let Some(call) = made.get_mut(who) else { return Err("no such peer".into()) };
    let (ms, calls) = round(call)?;
    Ok(json!({ "who": who, "ms": ms, "calls": calls }))
}
