use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! dtypes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $bits:literal;)*) => {
        /// The type of a stored number: every type that a safetensors file can hold, under the names it
        /// uses there.
        ///
        /// bantam computes on F16, BF16, F32 and F64; tensors of the other types are carried along untouched.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[non_exhaustive]
        pub enum DType { $($(#[$doc])* #[serde(rename = $name)] $variant,)* }

        impl DType {
            /// Size of one number in bits. Sizes are counted in bits because types of less than a byte exist.
            pub fn bits(self) -> usize {
                match self { $(Self::$variant => $bits,)* }
            }

            /// The name that safetensors gives it, for example `"BF16"`.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            pub(crate) fn from_name(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

dtypes! {
    /// One byte, 0 or 1.
    Bool = "BOOL", 8;
    /// 4-bit float of OCP microscaling.
    F4 = "F4", 4;
    /// 6-bit float, 2 exponent bits.
    F6E2M3 = "F6_E2M3", 6;
    /// 6-bit float, 3 exponent bits.
    F6E3M2 = "F6_E3M2", 6;
    /// Unsigned byte.
    U8 = "U8", 8;
    /// Signed byte.
    I8 = "I8", 8;
    /// 8-bit float, 5 exponent bits.
    F8E5M2 = "F8_E5M2", 8;
    /// 8-bit float, 4 exponent bits.
    F8E4M3 = "F8_E4M3", 8;
    /// Power-of-two scale of OCP microscaling.
    F8E8M0 = "F8_E8M0", 8;
    /// 8-bit float, 4 exponent bits, no negative zero.
    F8E4M3Fnuz = "F8_E4M3FNUZ", 8;
    /// 8-bit float, 5 exponent bits, no negative zero.
    F8E5M2Fnuz = "F8_E5M2FNUZ", 8;
    /// Signed 16-bit integer.
    I16 = "I16", 16;
    /// Unsigned 16-bit integer.
    U16 = "U16", 16;
    /// IEEE half precision.
    F16 = "F16", 16;
    /// The upper half of an IEEE single.
    Bf16 = "BF16", 16;
    /// Signed 32-bit integer.
    I32 = "I32", 32;
    /// Unsigned 32-bit integer.
    U32 = "U32", 32;
    /// IEEE single precision.
    F32 = "F32", 32;
    /// Complex number of two F32.
    C64 = "C64", 64;
    /// IEEE double precision.
    F64 = "F64", 64;
    /// Signed 64-bit integer.
    I64 = "I64", 64;
    /// Unsigned 64-bit integer.
    U64 = "U64", 64;
}

impl DType {
    /// Whether it is a float that bantam does not compute on: a weight in that type is one that is passed over.
    pub(crate) fn is_small_float(self) -> bool {
        use DType::{F4, F6E2M3, F6E3M2, F8E4M3, F8E4M3Fnuz, F8E5M2, F8E5M2Fnuz};
        matches!(self, F4 | F6E2M3 | F6E3M2 | F8E4M3 | F8E4M3Fnuz | F8E5M2 | F8E5M2Fnuz)
    }

    /// Whether bantam computes on it: F16, BF16, F32, F64.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::Bf16 | Self::F32 | Self::F64)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
