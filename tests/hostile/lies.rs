//! Headers and descriptions that lie, in the open layout.

use crate::common::{Array, array, described, f32s, with_header};
use crate::using::{open, open_path};
use bantam::Model;

/// The error's text; the file must not open.
fn error(bytes: &[u8]) -> String {
    assert!(!open(bytes), "it opens");
    open_path(tempfile::tempdir().unwrap().path(), bytes);
    Model::from_bytes(bytes).unwrap_err().to_string()
}

#[track_caller]
fn refused(bytes: &[u8], why: &str) {
    let text = error(bytes);
    assert!(text.contains(why), "{text:?} does not say {why:?}");
}

/// A description with one weight `w` of this form.
fn weight(form: &str, arrays: &[Array]) -> Vec<u8> {
    described(&format!(r#"{{"version":1,"entries":[{{"name":"w","form":{form}}}]}}"#), arrays)
}

fn bytes_of(name: &str, n: usize) -> Array {
    array(name, "U8", &[n], vec![0; n])
}

/// A file whose weight opens, but cannot be decoded.
#[track_caller]
fn broken(bytes: &[u8], why: &str) {
    assert!(open(bytes));
    let text = Model::from_bytes(bytes).unwrap().weight("w").unwrap().to_dense().unwrap_err().to_string();
    assert!(text.contains(why), "{text:?} does not say {why:?}");
}

#[test]
fn header_lengths() {
    for n in [1_u64, 2, 100, 99_999_999, 100_000_001, u64::MAX / 2, u64::MAX] {
        let mut bytes = n.to_le_bytes().to_vec();
        bytes.extend(b"{}");
        if n != 2 {
            assert!(error(&bytes).contains("header"));
        }
    }
    refused(b"", "shorter than 8 bytes");
    refused(&with_header("", b""), "header");
    refused(&with_header("{}", b"x"), "1");
    refused(&with_header("[]", b""), "header");
    assert!(open(&with_header("{}", b"")));
}

#[test]
fn tensors_that_do_not_add_up() {
    let one = |dtype: &str, shape: &str, from: u64, to: u64, data: usize| {
        let text = format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{to}]}}}}"#);
        with_header(&text, &vec![0; data])
    };
    assert!(open(&one("F32", "[2]", 0, 8, 8)));
    for bad in [
        one("F32", "[2]", 0, 8, 7),
        one("F32", "[2]", 0, 8, 9),
        one("F32", "[3]", 0, 8, 8),
        one("F32", "[2]", 4, 12, 12),
        one("F32", "[2]", 8, 0, 8),
        one("F32", "[2]", 0, u64::MAX, 8),
        one("F32", "[2]", u64::MAX - 7, u64::MAX, 8),
        one("F32", &format!("[{}]", u64::MAX), 0, 8, 8),
        one("F32", &format!("[{},2]", u64::MAX / 2), 0, 8, 8),
        one("F32", &format!("[0,{},2]", u64::MAX), 0, 0, 0),
        one("F32", &format!("[{},{},0]", u64::MAX, u64::MAX), 0, 0, 0),
        one("F32", &format!("[0,{}]", u64::MAX), 0, 0, 0),
        one("F32", "[-1]", 0, 8, 8),
        one("F32", "[1.5]", 0, 8, 8),
        one("F31", "[2]", 0, 8, 8),
        one("f32", "[2]", 0, 8, 8),
        one("F4", "[3]", 0, 2, 2),
    ] {
        error(&bad);
    }
    // Rows without entries are no reason to walk through them.
    assert!(open(&one("F32", "[1000000000000,0]", 0, 0, 0)));
    let overlap = r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}"#;
    error(&with_header(overlap, &[0; 6]));
    let hole = r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[4,6]}}"#;
    error(&with_header(hole, &[0; 6]));
    // The same name twice: refused, or one of them.
    let twice = r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"a":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}}"#;
    error(&with_header(twice, &[0; 4]));
}

#[test]
fn depth_bombs() {
    for n in [100, 1000, 1_000_000] {
        error(&with_header(&"[".repeat(n), b""));
        error(&with_header(&r#"{"a":"#.repeat(n), b""));
        let deep = r#"{"shape":[1],"sum":["#.repeat(n) + &"]}".repeat(n);
        error(&weight(&deep, &[]));
    }
    let mut nested = r#"{"shape":[1],"leaf":{"float":"F32"}}"#.to_owned();
    for _ in 0..20 {
        nested = format!(r#"{{"shape":[1],"sum":[{nested}]}}"#);
    }
    refused(&weight(&nested, &[]), "too deep");
}

#[test]
fn wide_bombs() {
    // Many small claims in few bytes.
    let many = |text: &str, n: usize| vec![text; n].join(",");
    let ones = many("1", 2_000_000);
    error(&with_header(&format!(r#"{{"a":{{"dtype":"F32","shape":[{ones}],"data_offsets":[0,0]}}}}"#), b""));
    error(&weight(&format!(r#"{{"shape":[{ones}],"leaf":{{"float":"F32"}}}}"#), &[]));
    let entries = many(r#"{"name":"w"}"#, 200_000);
    error(&described(&format!(r#"{{"version":1,"entries":[{entries}]}}"#), &[f32s("w", &[1], &[0.0])]));
    let nodes = many(r#"{"op":"relu"}"#, 200_000);
    let graph = described(&format!(r#"{{"version":1,"entries":[],"graph":{{"nodes":[{nodes}]}}}}"#), &[]);
    error(&graph);
    let graph = described(&format!(r#"{{"version":1,"entries":[],"graph":[{nodes}]}}"#), &[]);
    refused(&graph, "100000 nodes");
    let terms = many(r#"{"shape":[1],"leaf":{"float":"F32"}}"#, 100_000);
    error(&weight(&format!(r#"{{"shape":[1],"sum":[{terms}]}}"#), &[]));
}

#[test]
fn versions_and_unknown_words() {
    refused(&described(r#"{"version":2,"anything":[]}"#, &[]), "newer version of bantam (layout 2)");
    refused(&described(r#"{"version":4294967295}"#, &[]), "newer");
    refused(&described(r#"{"version":-1,"entries":[]}"#, &[]), "description");
    refused(&described("", &[]), "description");
    refused(&described("null", &[]), "description");
    refused(&weight(r#"{"shape":[1],"tree":{}}"#, &[]), "description");
    refused(&weight(r#"{"shape":[1],"leaf":{"affine":{"bits":300}}}"#, &[]), "description");
    assert!(open(&described(r#"{"version":1,"entries":[]}"#, &[])));
}

#[test]
fn parts_that_are_missing_or_too_many() {
    let dense = r#"{"shape":[2,2],"leaf":{"float":"F32"}}"#;
    assert!(open(&weight(dense, &[f32s("w", &[2, 2], &[1.0; 4])])));
    refused(&weight(dense, &[]), "tensor `w`: it is described but missing");
    refused(&weight(dense, &[f32s("w", &[2, 2], &[1.0; 4]), bytes_of("x", 1)]), "tensor `x`");
    refused(
        &weight(dense, &[array("w", "F16", &[2, 2], vec![0; 8])]),
        "expected F32 of 16 bytes, got F16 of 8 bytes",
    );
    refused(&weight(dense, &[f32s("w", &[2, 3], &[1.0; 6])]), "got F32 of 24 bytes");
    refused(
        &weight(r#"{"shape":[2,2],"leaf":{"float":"I64"}}"#, &[array("w", "I64", &[2, 2], vec![0; 32])]),
        "not floats",
    );
    let twice = r#"{"version":1,"entries":[{"name":"w"},{"name":"w"}]}"#;
    error(&described(twice, &[f32s("w", &[1], &[0.0])]));
    // Two weights that use one array.
    let shared = r#"{"version":1,"entries":[{"name":"w.u"},{"name":"w","form":{"shape":[2,2],"product":[{"shape":[2,1],"leaf":{"float":"F32"}},{"shape":[1,2],"leaf":{"float":"F32"}}]}}]}"#;
    refused(
        &described(shared, &[f32s("w.u", &[2, 1], &[0.0; 2]), f32s("w.v", &[1, 2], &[0.0; 2])]),
        "missing",
    );
}

#[test]
fn shapes_that_overflow() {
    let max = u64::MAX;
    for shape in [
        format!("[0,{max},2]"),
        format!("[{max},{max}]"),
        format!("[{max}]"),
        format!("[{},4]", max / 4),
        format!("[0,{}]", max / 2),
    ] {
        refused(&weight(&format!(r#"{{"shape":{shape},"leaf":{{"float":"F32"}}}}"#), &[]), "too large");
        error(&weight(
            &format!(r#"{{"shape":{shape},"leaf":{{"mask":{{"bitmask":{{"kept":0}}}},"float":"F32"}}}}"#),
            &[],
        ));
        error(&weight(
            &format!(
                r#"{{"shape":{shape},"product":[{{"shape":[1,1],"leaf":{{"float":"F32"}}}},{{"shape":[1,1],"leaf":{{"float":"F32"}}}}]}}"#
            ),
            &[],
        ));
    }
    let kept = |kept: u64| {
        format!(r#"{{"shape":[2,2],"leaf":{{"mask":{{"bitmask":{{"kept":{kept}}}}},"float":"F32"}}}}"#)
    };
    error(&weight(&kept(5), &[bytes_of("w.mask", 1)]));
    error(&weight(&kept(max), &[bytes_of("w.mask", 1)]));
    // Rows without entries in every form.
    for leaf in
        [r#"{"mask":{"bitmask":{"kept":0}},"float":"F32"}"#, r#"{"mask":{"zeros":{"kept":0}},"float":"F32"}"#]
    {
        let values = if leaf.contains("zeros") { "w" } else { "w.values" };
        let mut arrays = vec![f32s(values, &[0], &[])];
        if leaf.contains("bitmask") {
            arrays.push(bytes_of("w.mask", 0));
        }
        let bytes = weight(&format!(r#"{{"shape":[100000000000000,0],"leaf":{leaf}}}"#), &arrays);
        assert!(open(&bytes));
        assert_eq!(Model::from_bytes(bytes).unwrap().weight("w").unwrap().to_dense().unwrap().len(), 0);
    }
    // More than fits in memory: an error, not an abort.
    let product = r#"{"shape":[4000000,4000000],"product":[{"shape":[4000000,1],"leaf":{"mask":{"bitmask":{"kept":0}},"float":"F32"}},{"shape":[1,4000000],"leaf":{"mask":{"bitmask":{"kept":0}},"float":"F32"}}]}"#;
    let arrays = [
        bytes_of("w.u.mask", 500_000),
        f32s("w.u.values", &[0], &[]),
        bytes_of("w.v.mask", 500_000),
        f32s("w.v.values", &[0], &[]),
    ];
    broken(&weight(product, &arrays), "does not fit in memory");
}

#[test]
fn codes_that_do_not_fit() {
    let affine = |shape: &str, bits: u32, granularity: &str| {
        format!(
            r#"{{"shape":{shape},"leaf":{{"affine":{{"bits":{bits},"granularity":{granularity},"scale":"F32","symmetric":true}}}}}}"#
        )
    };
    let arrays = |codes: usize, scales: usize| {
        [bytes_of("w.codes", codes), f32s("w.scale", &[scales], &vec![1.0; scales])]
    };
    assert!(open(&weight(&affine("[2,4]", 8, r#""channel""#), &arrays(8, 2))));
    for bits in [0, 9, 16, 255] {
        refused(&weight(&affine("[2,4]", bits, r#""tensor""#), &arrays(8, 1)), "1 to 8 bits");
    }
    for size in ["0", "3", "5", "18446744073709551615"] {
        let group = format!(r#"{{"group":{{"size":{size}}}}}"#);
        refused(&weight(&affine("[2,4]", 8, &group), &arrays(8, 2)), "divide");
    }
    error(&weight(&affine("[2,4]", 8, r#""channel""#), &arrays(7, 2)));
    error(&weight(&affine("[2,4]", 8, r#""channel""#), &arrays(8, 1)));
    error(&weight(&affine("[2,4]", 8, r#""row""#), &arrays(8, 1)));
    // Nothing to code, in any number of rows.
    assert!(open(&weight(&affine("[100000000000000,0]", 8, r#""channel""#), &arrays(0, 0))));
    for scale in [f32::NAN, f32::INFINITY, 0.0, -1.0] {
        assert!(open(&weight(
            &affine("[2,4]", 8, r#""tensor""#),
            &[bytes_of("w.codes", 8), f32s("w.scale", &[1], &[scale])]
        )));
        let spread = r#"{"shape":[2,4],"leaf":{"mask":{"zeros":{"kept":3}},"affine":{"bits":8,"granularity":"tensor","scale":"F32","symmetric":true}}}"#;
        assert!(open(&weight(spread, &[bytes_of("w.codes", 8), f32s("w.scale", &[1], &[scale])])));
    }
    error(&weight(
        r#"{"shape":[2,4],"leaf":{"affine":{"bits":8,"granularity":"tensor","scale":"U8","symmetric":true}}}"#,
        &arrays(8, 1),
    ));
}

#[test]
fn ranks_and_factors_that_do_not_fit() {
    let leaf = |shape: &str| format!(r#"{{"shape":{shape},"leaf":{{"float":"F32"}}}}"#);
    let product = |u: &str, v: &str| format!(r#"{{"shape":[4,6],"product":[{},{}]}}"#, leaf(u), leaf(v));
    let arrays = [f32s("w.u", &[4, 2], &[1.0; 8]), f32s("w.v", &[2, 6], &[1.0; 12])];
    assert!(open(&weight(&product("[4,2]", "[2,6]"), &arrays)));
    for (u, v) in [
        ("[4,0]", "[0,6]"),
        ("[4,2]", "[3,6]"),
        ("[3,2]", "[2,6]"),
        ("[4,2]", "[2,5]"),
        ("[8]", "[2,6]"),
        ("[4,2,1]", "[2,6]"),
        ("[]", "[]"),
    ] {
        refused(&weight(&product(u, v), &arrays), "factors");
    }
    refused(&weight(r#"{"shape":[4,6],"sum":[]}"#, &[]), "sum");
    refused(&weight(&format!(r#"{{"shape":[4,6],"sum":[{}]}}"#, leaf("[6,4]")), &[]), "sum");
    error(&weight(r#"{"shape":[4,6],"product":[]}"#, &[]));
}

#[test]
fn masks_that_lie() {
    let masked = |mask: &str| format!(r#"{{"shape":[4,8],"leaf":{{"mask":{mask},"float":"F32"}}}}"#);
    let values = |n: usize| f32s("w.values", &[n], &vec![1.0; n]);
    // A bit more and a bit less than declared.
    broken(
        &weight(
            &masked(r#"{"bitmask":{"kept":3}}"#),
            &[array("w.mask", "U8", &[4], vec![1, 1, 0, 0]), values(3)],
        ),
        "another number",
    );
    broken(
        &weight(
            &masked(r#"{"bitmask":{"kept":1}}"#),
            &[array("w.mask", "U8", &[4], vec![1, 1, 0, 0]), values(1)],
        ),
        "another number",
    );
    broken(
        &weight(
            r#"{"shape":[4],"leaf":{"mask":{"zeros":{"kept":1}},"float":"F32"}}"#,
            &[f32s("w", &[4], &[1.0, 2.0, 0.0, -0.0])],
        ),
        "zeros",
    );
    let csr = |offsets: [u32; 5], indices: &[u8]| {
        let form = masked(&format!(r#"{{"csr":{{"kept":{}}}}}"#, indices.len()));
        let offsets =
            array("w.row_offsets", "U32", &[5], offsets.iter().flat_map(|x| x.to_le_bytes()).collect());
        weight(
            &form,
            &[offsets, array("w.indices", "U8", &[indices.len()], indices.to_vec()), values(indices.len())],
        )
    };
    assert!(open(&csr([0, 2, 2, 3, 4], &[1, 7, 0, 5])));
    for (offsets, indices) in [
        ([0, 2, 2, 3, 4], [7, 1, 0, 5]),
        ([0, 2, 2, 3, 4], [1, 1, 0, 5]),
        ([0, 2, 2, 3, 4], [1, 8, 0, 5]),
        ([0, 2, 2, 3, 4], [1, 7, 255, 5]),
        ([1, 2, 2, 3, 4], [1, 7, 0, 5]),
        ([0, 2, 2, 3, 5], [1, 7, 0, 5]),
        ([0, 2, 2, 3, 3], [1, 7, 0, 5]),
        ([0, 3, 2, 3, 4], [1, 7, 0, 5]),
        ([0, u32::MAX, 2, 3, 4], [1, 7, 0, 5]),
    ] {
        broken(&csr(offsets, &indices), "sparse indices");
    }
    let nm = |n: usize, m: usize, stride: usize, bytes: Vec<u8>, kept: usize| {
        let form = masked(&format!(r#"{{"nm":{{"n":{n},"m":{m},"stride":{stride}}}}}"#));
        weight(&form, &[array("w.pattern", "U8", &[bytes.len()], bytes), values(kept)])
    };
    assert!(open(&nm(2, 4, 1, vec![0; 3], 16)));
    // C(4, 2) = 6: patterns 6 and 7 do not exist.
    broken(&nm(2, 4, 1, vec![0b110, 0, 0], 16), "does not exist");
    broken(&nm(2, 4, 1, vec![255; 3], 16), "does not exist");
    for (n, m, stride) in [
        (5, 4, 1),
        (2, 0, 1),
        (2, 3, 1),
        (2, 4, 0),
        (2, 4, 3),
        (2, 16, 1),
        (2, 4, usize::MAX),
        (usize::MAX, 4, 1),
        (2, usize::MAX, 1),
    ] {
        error(&nm(n, m, stride, vec![0; 3], 16));
    }
    error(&nm(2, 4, 1, vec![0; 3], 15));
    assert!(open(&nm(0, 4, 1, vec![], 0)));
    assert!(open(&nm(4, 4, 1, vec![], 32)));
    // A small file asks for a large mask.
    let wide = r#"{"shape":[1,1000000000000],"leaf":{"mask":{"csr":{"kept":0}},"float":"F32"}}"#;
    let arrays = [bytes_of("w.row_offsets", 8), array("w.indices", "U64", &[0], vec![]), values(0)];
    refused(&weight(wide, &arrays), "mask");
}

#[test]
fn activations_and_graphs() {
    let with = |activations: &str| {
        weight(
            &format!(r#"{{"shape":[2,2],"leaf":{{"float":"F32"}},"activations":{activations}}}"#),
            &[f32s("w", &[2, 2], &[1.0; 4])],
        )
    };
    assert!(open(&with(r#""int8""#)));
    assert!(open(&with(r#"{"int8_static":{"low":-1,"high":0}}"#)));
    for bad in [
        r#"{"low":1,"high":2}"#,
        r#"{"low":-2,"high":-1}"#,
        r#"{"low":null,"high":1}"#,
        r#"{"low":NaN,"high":1}"#,
        r#"{"low":-1e999,"high":1}"#,
        r#"{"low":-1}"#,
    ] {
        error(&with(&format!(r#"{{"int8_static":{bad}}}"#)));
    }
    error(&with(r#""int7""#));

    let graph = |nodes: &str| {
        described(
            &format!(r#"{{"version":1,"entries":[{{"name":"w"}},{{"name":"ids"}}],"graph":[{nodes}]}}"#),
            &[f32s("w", &[2, 3], &[1.0; 6]), bytes_of("ids", 8)],
        )
    };
    assert!(open(&graph(r#"{"op":{"linear":{"weight":"w"}}},{"op":"relu"}"#)));
    refused(&graph(r#"{"op":{"linear":{"weight":"x"}}}"#), "no weight `x`");
    refused(&graph(r#"{"op":{"linear":{"weight":"ids"}}}"#), "ids");
    refused(&graph(r#"{"op":{"linear":{"weight":"w","bias":"w"}}}"#), "w");
    refused(&graph(r#"{"op":"relu","from":[1]}"#), "node 1");
    refused(&graph(r#"{"op":"relu","from":[18446744073709551615]}"#), "node 1");
    refused(&graph(r#"{"op":"add"}"#), "inputs");
    refused(&graph(r#"{"op":"fly"}"#), "description");
    for pool in [
        r#"{"size":[0,0],"stride":[1,1],"padding":[0,0]}"#,
        r#"{"size":[2,2],"stride":[0,1],"padding":[0,0]}"#,
        r#"{"size":[2,2],"stride":[1,1],"padding":[18446744073709551615,0]}"#,
    ] {
        error(&graph(&format!(r#"{{"op":{{"max_pool":{pool}}}}}"#)));
    }
    error(&graph(r#"{"op":{"dropout":{"probability":1e999}}}"#));
    error(&graph(r#"{"op":{"conv2d":{"weight":"w","stride":[1,1],"padding":[0,0],"groups":0}}}"#));
}

#[test]
fn weights_without_entries_set_no_sizes() {
    // They cost the file nothing, and what the network puts out would be as large as they say.
    let nodes = r#"{"op":{"linear":{"weight":"a"}}},{"op":{"linear":{"weight":"b"}}}"#;
    let entries = r#"{"name":"a"},{"name":"b"}"#;
    let text = format!(r#"{{"version":1,"entries":[{entries}],"graph":[{nodes}]}}"#);
    let bytes = described(&text, &[f32s("a", &[0, 4], &[]), f32s("b", &[60_000_000, 0], &[])]);
    assert!(bytes.len() < 500);
    refused(&bytes, "`a`: a weight of a network needs an entry");
}

#[test]
fn codebooks_that_lie() {
    let book = |values: &str, table: &str| {
        format!(r#"{{"shape":[2,4],"leaf":{{"codebook":{{"values":{values},"table":"{table}"}}}}}}"#)
    };
    let codes = |bytes: &[u8]| array("w.codes", "U8", &[bytes.len()], bytes.to_vec());
    let table = |values: &[f32]| f32s("w.codebook", &[values.len()], values);
    let three = |bytes: &[u8]| weight(&book("3", "F32"), &[table(&[-1.0, 0.5, 2.0]), codes(bytes)]);
    // Two bits for three values: 3 is a code that stands for nothing.
    assert!(open(&three(&[0b10_01_00_10, 0])));
    broken(&three(&[0b11_01_00_10, 0]), "beyond its codebook");
    broken(&three(&[0, 0b11_00_00_00]), "beyond its codebook");
    // Neither is a product with it, nor what is made of it.
    let model = Model::from_bytes(three(&[0, 0b11_00_00_00])).unwrap();
    let bad = model.weight("w").unwrap();
    let x = bantam::Tensor::new(&[1, 4], vec![1.0; 4]).unwrap();
    assert!(bad.matmul(&x).unwrap_err().to_string().contains("beyond its codebook"));
    assert!(bantam::Pipeline::new().prune(0.1).run(&model).is_err());
    // Of four values, every code stands for one.
    let four = [table(&[1.0, 2.0, 3.0, 4.0]), codes(&[255, 255])];
    assert!(open(&weight(&book("4", "F32"), &four)));
    for x in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let arrays = [table(&[1.0, x, 3.0, 4.0]), codes(&[0, 0])];
        refused(&weight(&book("4", "F32"), &arrays), "NaN or infinite");
    }
    for values in ["0", "257", "18446744073709551615"] {
        refused(&weight(&book(values, "F32"), &four), "1 to 256 values");
    }
    error(&weight(&book("-1", "F32"), &four));
    refused(&weight(&book("4", "U8"), &[bytes_of("w.codebook", 4), codes(&[0, 0])]), "not floats");
    // Another length than declared, of either part, and a type that is another.
    error(&weight(&book("5", "F32"), &four));
    error(&weight(&book("2", "F32"), &four));
    error(&weight(&book("4", "F16"), &four));
    error(&weight(&book("4", "F32"), &[table(&[1.0; 4]), codes(&[0])]));
    error(&weight(&book("4", "F32"), &[table(&[1.0; 4])]));
    error(&weight(&book("4", "F32"), &[codes(&[0, 0])]));
    // One value still takes a bit; 256 take eight.
    assert!(open(&weight(&book("1", "F32"), &[table(&[7.0, 0.0]), codes(&[0])])));
    broken(&weight(&book("1", "F32"), &[table(&[7.0, 0.0]), codes(&[1])]), "beyond its codebook");
    assert!(open(&weight(&book("256", "F32"), &[table(&[0.25; 256]), codes(&[255; 8])])));
    // Zeros have no code.
    let zeros =
        r#"{"shape":[2,4],"leaf":{"mask":{"zeros":{"kept":3}},"codebook":{"values":4,"table":"F32"}}}"#;
    refused(&weight(zeros, &four), "zeros");
    // A small file asks for many codes.
    let wide = r#"{"shape":[1,1000000000000],"leaf":{"codebook":{"values":4,"table":"F32"}}}"#;
    error(&weight(wide, &four));
}
