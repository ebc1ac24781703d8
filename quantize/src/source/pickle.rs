//! Reads the pickle of a PyTorch state dict with a machine that can only build tensors.
//!
//! A pickle is a program for a stack machine that may call any Python function by name. This machine knows the opcodes that
//! `torch.save` writes for a dictionary of tensors and the handful of names in `Global`; every other name, call and opcode
//! is refused by name. Nothing is executed: the result is a description of tensors.

use super::Dtype;
use anyhow::{Context, Result, bail, ensure};

/// A tensor of the state dict: a view of a storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PickledTensor {
    /// Its key in the dictionary.
    pub name: String,
    /// File name of the storage, in the archive's `data/` folder.
    pub storage: String,
    /// Elements of the storage.
    pub dtype: Dtype,
    /// Number of elements in the storage.
    pub storage_len: usize,
    /// First element.
    pub offset: usize,
    /// Sizes.
    pub shape: Vec<usize>,
    /// Steps between elements along each dimension, in elements.
    pub strides: Vec<usize>,
}

/// A stack larger than this is no state dict (a thousand tensors need some twenty thousand objects in all).
const MAX_OBJECTS: usize = 4 << 20;

/// Values are small handles; what they point to lives in the machine's tables, so that nothing recurses.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Value {
    None,
    Bool(bool),
    Int(i64),
    Mark,
    Str(usize),
    Tuple(usize),
    Dict(usize),
    List,
    Global(Global),
    Storage(usize),
    Tensor(usize),
}

/// The names that a state dict needs.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(Dtype),
}

impl Global {
    fn find(module: &str, name: &str) -> Result<Self> {
        Ok(match (module, name) {
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2") => Self::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Self::RebuildParameter,
            ("torch", "FloatStorage") => Self::Storage(Dtype::F32),
            ("torch", "HalfStorage") => Self::Storage(Dtype::F16),
            ("torch", "BFloat16Storage") => Self::Storage(Dtype::Bf16),
            ("torch", "IntStorage") => Self::Storage(Dtype::I32),
            ("torch", "DoubleStorage") => Self::Storage(Dtype::Other("F64")),
            ("torch", "LongStorage") => Self::Storage(Dtype::Other("I64")),
            ("torch", "ByteStorage") => Self::Storage(Dtype::Other("U8")),
            ("torch", "CharStorage") => Self::Storage(Dtype::Other("I8")),
            ("torch", "BoolStorage") => Self::Storage(Dtype::Other("BOOL")),
            _ => bail!("it refers to `{module}.{name}`, which no table of weights needs: refused, nothing was executed"),
        })
    }
}

#[derive(Default)]
struct Machine {
    stack: Vec<Value>,
    memo: std::collections::HashMap<u32, Value>,
    strings: Vec<String>,
    tuples: Vec<Vec<Value>>,
    dicts: Vec<Vec<(Value, Value)>>,
    storages: Vec<(String, Dtype, usize)>,
    tensors: Vec<PickledTensor>,
}

/// Reads a state dict: its tensors in order.
pub fn read_state_dict(pickle: &[u8]) -> Result<Vec<PickledTensor>> {
    let mut machine = Machine::default();
    let mut input = Input { bytes: pickle, at: 0 };
    loop {
        let at = input.at;
        let opcode = input.byte()?;
        if opcode == b'.' {
            break;
        }
        machine.step(opcode, &mut input).with_context(|| format!("pickle, byte {at}"))?;
        ensure!(machine.stack.len() < MAX_OBJECTS, "pickle, byte {at}: more than {MAX_OBJECTS} objects");
    }
    let root = machine.pop()?;
    let Value::Dict(root) = root else { bail!("the pickle holds no dictionary of tensors but {}", machine.describe(root)) };
    let entries = std::mem::take(&mut machine.dicts[root]);
    entries
        .into_iter()
        .map(|(key, value)| {
            let Value::Str(key) = key else { bail!("the dictionary has a key that is no string but {}", machine.describe(key)) };
            let name = machine.strings[key].clone();
            let Value::Tensor(tensor) = value else {
                bail!("entry `{name}` of the dictionary is no tensor but {}", machine.describe(value))
            };
            Ok(PickledTensor { name, ..machine.tensors[tensor].clone() })
        })
        .collect()
}

struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        ensure!(len <= rest.len(), "the pickle ends at byte {}, {len} more are wanted", self.bytes.len());
        self.at += len;
        Ok(&rest[..len])
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.take(N)?.try_into().expect("take returns what was asked for"))
    }

    fn line(&mut self) -> Result<&'a str> {
        let len = self.bytes[self.at..].iter().position(|byte| *byte == b'\n').context("the pickle ends inside a name")?;
        let line = self.take(len + 1)?;
        std::str::from_utf8(&line[..len]).context("a name is not UTF-8")
    }

    fn string(&mut self, len: usize) -> Result<&'a str> {
        std::str::from_utf8(self.take(len)?).context("a string is not UTF-8")
    }
}

impl Machine {
    fn step(&mut self, opcode: u8, input: &mut Input<'_>) -> Result<()> {
        match opcode {
            // PROTO, FRAME
            0x80 => {
                let version = input.byte()?;
                ensure!((2..=5).contains(&version), "pickle protocol {version}, expected 2 to 5");
            }
            0x95 => {
                input.take(8)?;
            }
            b'N' => self.stack.push(Value::None),
            0x88 => self.stack.push(Value::Bool(true)),
            0x89 => self.stack.push(Value::Bool(false)),
            b'J' => self.stack.push(Value::Int(i32::from_le_bytes(input.array()?).into())),
            b'K' => self.stack.push(Value::Int(input.byte()?.into())),
            b'M' => self.stack.push(Value::Int(u16::from_le_bytes(input.array()?).into())),
            // LONG1: a little-endian two's complement number
            0x8a => {
                let len = input.byte()? as usize;
                ensure!(len <= 8, "an integer of {len} bytes");
                let bytes = input.take(len)?;
                let mut wide = [if bytes.last().is_some_and(|byte| byte & 0x80 != 0) { 0xff } else { 0 }; 8];
                wide[..len].copy_from_slice(bytes);
                self.stack.push(Value::Int(i64::from_le_bytes(wide)));
            }
            b'X' => {
                let len = u32::from_le_bytes(input.array()?) as usize;
                self.push_string(input.string(len)?);
            }
            0x8c => {
                let len = input.byte()? as usize;
                self.push_string(input.string(len)?);
            }
            b'c' => {
                let (module, name) = (input.line()?, input.line()?);
                self.stack.push(Value::Global(Global::find(module, name)?));
            }
            // STACK_GLOBAL
            0x93 => {
                let (name, module) = (self.pop_string()?, self.pop_string()?);
                self.stack.push(Value::Global(Global::find(&module, &name)?));
            }
            b'(' => self.stack.push(Value::Mark),
            b')' => self.push_tuple(Vec::new()),
            b't' => {
                let items = self.pop_to_mark()?;
                self.push_tuple(items);
            }
            0x85..=0x87 => {
                let at = self.stack.len().checked_sub(usize::from(opcode - 0x84)).context("the stack is empty")?;
                let items = self.stack.split_off(at);
                self.push_tuple(items);
            }
            b'}' => self.push_dict(),
            b']' => self.stack.push(Value::List),
            b'q' => self.remember(input.byte()?.into())?,
            b'r' => self.remember(u32::from_le_bytes(input.array()?))?,
            // MEMOIZE
            0x94 => self.remember(self.memo.len() as u32)?,
            b'h' => self.recall(input.byte()?.into())?,
            b'j' => self.recall(u32::from_le_bytes(input.array()?))?,
            b'Q' => self.persistent_id()?,
            b'R' => self.reduce()?,
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.dict_on_top()?.push((key, value));
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                ensure!(items.len().is_multiple_of(2), "a dictionary entry without a value");
                let dict = self.dict_on_top()?;
                dict.extend(items.chunks_exact(2).map(|entry| (entry[0], entry[1])));
            }
            // BUILD: a state dict carries `_metadata`, an attribute with version numbers that nothing here needs.
            b'b' => {
                self.pop()?;
                self.dict_on_top().context("setting attributes of an object that is no dictionary")?;
            }
            _ => bail!("opcode 0x{opcode:02x}, which no table of weights needs: refused, nothing was executed"),
        }
        Ok(())
    }

    fn pop(&mut self) -> Result<Value> {
        self.stack.pop().context("the stack is empty")
    }

    fn pop_string(&mut self) -> Result<String> {
        match self.pop()? {
            Value::Str(index) => Ok(self.strings[index].clone()),
            other => bail!("{} where a string is expected", self.describe(other)),
        }
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value>> {
        let mark = self.stack.iter().rposition(|value| *value == Value::Mark).context("no mark on the stack")?;
        let items = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(items)
    }

    fn push_string(&mut self, string: &str) {
        self.strings.push(string.to_owned());
        self.stack.push(Value::Str(self.strings.len() - 1));
    }

    fn push_tuple(&mut self, items: Vec<Value>) {
        self.tuples.push(items);
        self.stack.push(Value::Tuple(self.tuples.len() - 1));
    }

    fn push_dict(&mut self) {
        self.dicts.push(Vec::new());
        self.stack.push(Value::Dict(self.dicts.len() - 1));
    }

    fn dict_on_top(&mut self) -> Result<&mut Vec<(Value, Value)>> {
        match self.stack.last() {
            Some(Value::Dict(index)) => Ok(&mut self.dicts[*index]),
            other => bail!("{} where a dictionary is expected", other.map_or("nothing", |value| self.describe(*value))),
        }
    }

    fn remember(&mut self, key: u32) -> Result<()> {
        let value = *self.stack.last().context("the stack is empty")?;
        self.memo.insert(key, value);
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Result<()> {
        let value = *self.memo.get(&key).with_context(|| format!("nothing is remembered as {key}"))?;
        self.stack.push(value);
        Ok(())
    }

    fn tuple(&self, value: Value) -> Result<&[Value]> {
        match value {
            Value::Tuple(index) => Ok(&self.tuples[index]),
            other => bail!("{} where a tuple is expected", self.describe(other)),
        }
    }

    fn sizes(&self, value: Value) -> Result<Vec<usize>> {
        self.tuple(value)?.iter().map(|size| self.size(*size)).collect()
    }

    fn size(&self, value: Value) -> Result<usize> {
        match value {
            Value::Int(size) => usize::try_from(size).with_context(|| format!("{size} where a size is expected")),
            other => bail!("{} where a size is expected", self.describe(other)),
        }
    }

    fn persistent_id(&mut self) -> Result<()> {
        let id = self.pop()?;
        // ('storage', torch.FloatStorage, key, location, number of elements)
        let &[Value::Str(kind), Value::Global(Global::Storage(dtype)), Value::Str(key), _, len] = self.tuple(id)? else {
            bail!("a persistent id that is no storage")
        };
        ensure!(self.strings[kind] == "storage", "a persistent id `{}`, expected `storage`", self.strings[kind]);
        self.storages.push((self.strings[key].clone(), dtype, self.size(len)?));
        self.stack.push(Value::Storage(self.storages.len() - 1));
        Ok(())
    }

    fn reduce(&mut self) -> Result<()> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let arguments = self.tuple(arguments)?;
        match function {
            Value::Global(Global::OrderedDict) => {
                ensure!(arguments.is_empty(), "OrderedDict with contents given to its constructor");
                self.push_dict();
            }
            // (storage, first element, sizes, strides, requires_grad, hooks[, metadata])
            Value::Global(Global::RebuildTensor) => {
                let &[Value::Storage(storage), offset, shape, strides, ..] = arguments else {
                    bail!("_rebuild_tensor_v2 without a storage, offset, sizes and strides")
                };
                let (storage, dtype, storage_len) = self.storages[storage].clone();
                let (offset, shape, strides) = (self.size(offset)?, self.sizes(shape)?, self.sizes(strides)?);
                ensure!(shape.len() == strides.len(), "a tensor of {} sizes and {} strides", shape.len(), strides.len());
                self.tensors.push(PickledTensor { name: String::new(), storage, dtype, storage_len, offset, shape, strides });
                self.stack.push(Value::Tensor(self.tensors.len() - 1));
            }
            // (tensor, requires_grad, hooks)
            Value::Global(Global::RebuildParameter) => {
                let Some(tensor @ Value::Tensor(_)) = arguments.first().copied() else { bail!("_rebuild_parameter without a tensor") };
                self.stack.push(tensor);
            }
            other => bail!("a call of {}", self.describe(other)),
        }
        Ok(())
    }

    fn describe(&self, value: Value) -> &'static str {
        match value {
            Value::None => "None",
            Value::Bool(_) => "a truth value",
            Value::Int(_) => "a number",
            Value::Mark => "a mark",
            Value::Str(_) => "a string",
            Value::Tuple(_) => "a tuple",
            Value::Dict(_) => "a dictionary",
            Value::List => "a list",
            Value::Global(_) => "a function",
            Value::Storage(_) => "a storage",
            Value::Tensor(_) => "a tensor",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `{name: _rebuild_tensor_v2(('storage', BFloat16Storage, '0', 'cpu', 6), 2, (2, 2), (2, 1), False, OrderedDict())}`
    fn pickle(module: &str, function: &str) -> Vec<u8> {
        let mut bytes = b"\x80\x02}q\x00X\x01\x00\x00\x00w".to_vec();
        bytes.extend(format!("c{module}\n{function}\n").bytes());
        bytes.extend(b"((X\x07\x00\x00\x00storagectorch\nBFloat16Storage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06tQ");
        bytes.extend(b"K\x02K\x02K\x02\x86K\x02K\x01\x86\x89ccollections\nOrderedDict\n)RtRs.");
        bytes
    }

    #[test]
    fn reads_a_view() {
        let tensors = read_state_dict(&pickle("torch._utils", "_rebuild_tensor_v2")).unwrap();
        let want = PickledTensor {
            name: "w".into(),
            storage: "0".into(),
            dtype: Dtype::Bf16,
            storage_len: 6,
            offset: 2,
            shape: vec![2, 2],
            strides: vec![2, 1],
        };
        assert_eq!(tensors, [want]);
    }

    #[test]
    fn refuses_other_functions_by_name() {
        for (module, function) in [("os", "system"), ("builtins", "eval"), ("torch", "load"), ("torch._utils", "_rebuild_tensor_v3")] {
            let error = format!("{:#}", read_state_dict(&pickle(module, function)).unwrap_err());
            assert!(error.contains(&format!("`{module}.{function}`")), "{error}");
        }
        // The same by STACK_GLOBAL, as newer protocols write it.
        let error = format!("{:#}", read_state_dict(b"\x80\x04\x8c\x05posix\x8c\x06system\x93.").unwrap_err());
        assert!(error.contains("`posix.system`"), "{error}");
    }

    #[test]
    fn refuses_calls_of_values_and_other_opcodes() {
        // REDUCE of a string; INST (0x69), OBJ (0x6f), NEWOBJ (0x81), EXT1 (0x82) would build objects.
        let error = format!("{:#}", read_state_dict(b"\x80\x02X\x01\x00\x00\x00a)R.").unwrap_err());
        assert!(error.contains("a call of a string"), "{error}");
        for opcode in [0x69, 0x6f, 0x81, 0x82, 0x92] {
            let error = format!("{:#}", read_state_dict(&[0x80, 2, opcode, b'.']).unwrap_err());
            assert!(error.contains(&format!("0x{opcode:02x}")), "{error}");
        }
    }

    #[test]
    fn every_truncation_is_an_error() {
        let whole = pickle("torch._utils", "_rebuild_tensor_v2");
        for len in 0..whole.len() {
            assert!(read_state_dict(&whole[..len]).is_err(), "{len} of {} bytes", whole.len());
        }
    }
}
