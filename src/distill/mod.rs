use crate::*;
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Epoch {
    pub loss: f64,
    pub accuracy: f64,
}
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Training {
    pub epochs: Vec<Epoch>,
}
#[derive(Debug)]
pub struct Distiller<'a, T>(std::marker::PhantomData<&'a T>);
#[derive(Debug)]
pub struct FineTuner<'a, T>(std::marker::PhantomData<&'a T>);
macro_rules! x {
    ($t:ident) => {
        impl<T: Float> Step for $t<'_, T> {
            fn name(&self) -> &str {
                "x"
            }
        }
        impl<T: Float> Compressor<T> for $t<'_, T> {
            fn compress(&self, _: &mut Model<T>, _: &Log<'_>) -> Result<()> {
                Ok(())
            }
        }
    };
}
x!(Distiller);
x!(FineTuner);
