//! Reads the pickle of a PyTorch checkpoint with a machine that can only build tensors and plain data.
//!
//! A pickle is a program for a stack machine that may call any Python function by name. This machine knows the opcodes that `torch.save`
//! writes for dictionaries of tensors and plain data, and the names in `Global`. It refuses every other name, call and opcode by name.
//! Nothing is executed: the result is a description of tensors.
//!
//! It is hand-written because no maintained crate has a list of allowed names.

use super::Dtype;
use anyhow::{Context, Result, bail, ensure};
use std::collections::{HashMap, HashSet};

/// The opcodes, with their names in Python's `pickletools`.
mod opcode {
    pub const PROTO: u8 = 0x80;
    pub const FRAME: u8 = 0x95;
    pub const STOP: u8 = b'.';

    pub const NONE: u8 = b'N';
    pub const NEWTRUE: u8 = 0x88;
    pub const NEWFALSE: u8 = 0x89;
    pub const BININT: u8 = b'J';
    pub const BININT1: u8 = b'K';
    pub const BININT2: u8 = b'M';
    pub const LONG1: u8 = 0x8a;
    pub const LONG4: u8 = 0x8b;
    pub const BINFLOAT: u8 = b'G';
    pub const BINUNICODE: u8 = b'X';
    pub const SHORT_BINUNICODE: u8 = 0x8c;
    pub const BINUNICODE8: u8 = 0x8d;
    pub const BINBYTES: u8 = b'B';
    pub const SHORT_BINBYTES: u8 = b'C';
    pub const BINBYTES8: u8 = 0x8e;

    pub const MARK: u8 = b'(';
    pub const POP: u8 = b'0';
    pub const POP_MARK: u8 = b'1';
    pub const DUP: u8 = b'2';
    pub const BINPUT: u8 = b'q';
    pub const LONG_BINPUT: u8 = b'r';
    pub const MEMOIZE: u8 = 0x94;
    pub const BINGET: u8 = b'h';
    pub const LONG_BINGET: u8 = b'j';

    pub const EMPTY_TUPLE: u8 = b')';
    pub const TUPLE: u8 = b't';
    pub const TUPLE1: u8 = 0x85;
    pub const TUPLE2: u8 = 0x86;
    pub const TUPLE3: u8 = 0x87;
    pub const EMPTY_LIST: u8 = b']';
    pub const APPEND: u8 = b'a';
    pub const APPENDS: u8 = b'e';
    pub const EMPTY_SET: u8 = 0x8f;
    pub const ADDITEMS: u8 = 0x90;
    pub const FROZENSET: u8 = 0x91;
    pub const EMPTY_DICT: u8 = b'}';
    pub const SETITEM: u8 = b's';
    pub const SETITEMS: u8 = b'u';

    pub const GLOBAL: u8 = b'c';
    pub const STACK_GLOBAL: u8 = 0x93;
    pub const BINPERSID: u8 = b'Q';
    pub const REDUCE: u8 = b'R';
    pub const BUILD: u8 = b'b';

    /// The names of opcodes that build arbitrary objects, for the refusal.
    pub fn name(opcode: u8) -> &'static str {
        match opcode {
            b'i' => "INST",
            b'o' => "OBJ",
            0x81 => "NEWOBJ",
            0x92 => "NEWOBJ_EX",
            0x82..=0x84 => "EXT",
            b'P' => "PERSID",
            b'I' | b'L' | b'F' | b'S' | b'V' | b'p' | b'g' | b'd' | b'l' => "of protocol 0",
            b'T' | b'U' => "BINSTRING",
            _ => "unknown",
        }
    }
}

/// A tensor of the state dict: a view of a storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PickledTensor {
    /// Its key in the dictionary.
    pub name: String,
    /// File name of the storage, in the archive's `data/` folder.
    pub storage: String,
    /// Type of the storage's elements.
    pub dtype: Dtype,
    /// First element.
    pub offset: usize,
    /// Sizes.
    pub shape: Vec<usize>,
    /// Steps between elements along each dimension, in elements.
    pub strides: Vec<usize>,
}

/// The tensors of a checkpoint, and what lies next to them.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct StateDict {
    /// The tensors, in order.
    pub tensors: Vec<PickledTensor>,
    /// Keys of the dictionaries around the one with the tensors, from outside in: `["state_dict"]` for `{"state_dict": {...}}`.
    pub inside: Vec<String>,
    /// Entries that are not tensors: their keys and kinds.
    pub left_out: Vec<(String, &'static str)>,
}

/// Keys under which training scripts store the state dict, in the order of preference.
const STATE_DICT_KEYS: [&str; 5] = ["state_dict", "model_state_dict", "model", "module", "net"];

/// Upper bound for the stack. A state dict of a thousand tensors needs some twenty thousand objects in all.
const MAX_OBJECTS: usize = 4 << 20;

/// Values are small handles to the machine's tables, so that nothing recurses.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Value {
    None,
    Bool,
    Int(i64),
    Float,
    Bytes,
    Mark,
    Str(usize),
    Tuple(usize),
    Dict(usize),
    List,
    Set,
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
    Size,
    /// A storage, by the safetensors name of its type.
    Storage(&'static str),
}

impl Global {
    fn find(module: &str, name: &str) -> Result<Self> {
        Ok(match (module, name) {
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2") => Self::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Self::RebuildParameter,
            ("torch", "Size") => Self::Size,
            ("torch", "DoubleStorage") => Self::Storage("F64"),
            ("torch", "FloatStorage") => Self::Storage("F32"),
            ("torch", "HalfStorage") => Self::Storage("F16"),
            ("torch", "BFloat16Storage") => Self::Storage("BF16"),
            ("torch", "LongStorage") => Self::Storage("I64"),
            ("torch", "IntStorage") => Self::Storage("I32"),
            ("torch", "ShortStorage") => Self::Storage("I16"),
            ("torch", "CharStorage") => Self::Storage("I8"),
            ("torch", "ByteStorage") => Self::Storage("U8"),
            ("torch", "BoolStorage") => Self::Storage("BOOL"),
            _ => bail!(
                "it refers to `{module}.{name}`, which no table of weights needs: refused, nothing was executed; save the model's state \
                 dict alone"
            ),
        })
    }
}

#[derive(Default)]
struct Machine {
    stack: Vec<Value>,
    memo: HashMap<u32, Value>,
    strings: Vec<String>,
    tuples: Vec<Vec<Value>>,
    dicts: Vec<Vec<(Value, Value)>>,
    storages: Vec<(String, Dtype)>,
    tensors: Vec<PickledTensor>,
}

/// Reads a checkpoint.
pub(crate) fn read_state_dict(pickle: &[u8]) -> Result<StateDict> {
    let mut machine = Machine::default();
    let mut input = Input { bytes: pickle, at: 0 };
    loop {
        let at = input.at;
        let opcode = input.byte()?;
        if opcode == opcode::STOP {
            break;
        }
        machine.step(opcode, &mut input).with_context(|| format!("pickle, byte {at}"))?;
        ensure!(machine.stack.len() < MAX_OBJECTS, "pickle, byte {at}: more than {MAX_OBJECTS} objects");
    }
    let root = machine.pop()?;
    machine.state_dict(root)
}

struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        ensure!(len <= rest.len(), "the pickle ends at byte {}, {len} more are needed", self.bytes.len());
        self.at += len;
        Ok(&rest[..len])
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.take(N)?.try_into().expect("take returns the number of bytes that it is given"))
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// A length of eight bytes.
    fn len(&mut self) -> Result<usize> {
        usize::try_from(u64::from_le_bytes(self.array()?)).context("a length beyond the memory")
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
            opcode::PROTO => {
                let version = input.byte()?;
                ensure!((2..=5).contains(&version), "pickle protocol {version}, expected 2 to 5");
            }
            opcode::FRAME => drop(input.take(8)?),
            opcode::NONE => self.stack.push(Value::None),
            opcode::NEWTRUE | opcode::NEWFALSE => self.stack.push(Value::Bool),
            opcode::BININT => self.stack.push(Value::Int(i32::from_le_bytes(input.array()?).into())),
            opcode::BININT1 => self.stack.push(Value::Int(input.byte()?.into())),
            opcode::BININT2 => self.stack.push(Value::Int(u16::from_le_bytes(input.array()?).into())),
            opcode::LONG1 => {
                let len = input.byte()? as usize;
                self.push_long(input.take(len)?);
            }
            opcode::LONG4 => {
                let len = input.u32()? as usize;
                self.push_long(input.take(len)?);
            }
            opcode::BINFLOAT => {
                input.take(8)?;
                self.stack.push(Value::Float);
            }
            opcode::BINUNICODE => {
                let len = input.u32()? as usize;
                self.push_string(input.string(len)?);
            }
            opcode::SHORT_BINUNICODE => {
                let len = input.byte()? as usize;
                self.push_string(input.string(len)?);
            }
            opcode::BINUNICODE8 => {
                let len = input.len()?;
                self.push_string(input.string(len)?);
            }
            opcode::BINBYTES | opcode::SHORT_BINBYTES | opcode::BINBYTES8 => {
                let len = match opcode {
                    opcode::BINBYTES => input.u32()? as usize,
                    opcode::SHORT_BINBYTES => input.byte()? as usize,
                    _ => input.len()?,
                };
                input.take(len)?;
                self.stack.push(Value::Bytes);
            }
            opcode::GLOBAL => {
                let (module, name) = (input.line()?, input.line()?);
                self.stack.push(Value::Global(Global::find(module, name)?));
            }
            opcode::STACK_GLOBAL => {
                let (name, module) = (self.pop_string()?, self.pop_string()?);
                self.stack.push(Value::Global(Global::find(&module, &name)?));
            }
            opcode::MARK => self.stack.push(Value::Mark),
            opcode::POP => drop(self.pop()?),
            opcode::POP_MARK => drop(self.pop_to_mark()?),
            opcode::DUP => self.stack.push(self.top()?),
            opcode::EMPTY_TUPLE => self.push_tuple(Vec::new()),
            opcode::TUPLE => {
                let items = self.pop_to_mark()?;
                self.push_tuple(items);
            }
            opcode::TUPLE1 | opcode::TUPLE2 | opcode::TUPLE3 => {
                let count = usize::from(opcode - opcode::TUPLE1) + 1;
                let at = self.stack.len().checked_sub(count).context("the stack is empty")?;
                let items = self.stack.split_off(at);
                self.push_tuple(items);
            }
            // The items of lists and sets are dropped: no tensor of a model is in one.
            opcode::EMPTY_LIST => self.stack.push(Value::List),
            opcode::APPEND => {
                self.pop()?;
                self.expect_top(Value::List)?;
            }
            opcode::APPENDS => {
                self.pop_to_mark()?;
                self.expect_top(Value::List)?;
            }
            opcode::EMPTY_SET => self.stack.push(Value::Set),
            opcode::ADDITEMS => {
                self.pop_to_mark()?;
                self.expect_top(Value::Set)?;
            }
            opcode::FROZENSET => {
                self.pop_to_mark()?;
                self.stack.push(Value::Set);
            }
            opcode::EMPTY_DICT => self.push_dict(),
            opcode::SETITEM => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.dict_on_top()?.push((key, value));
            }
            opcode::SETITEMS => {
                let items = self.pop_to_mark()?;
                ensure!(items.len().is_multiple_of(2), "a dictionary entry without a value");
                let dict = self.dict_on_top()?;
                dict.extend(items.chunks_exact(2).map(|entry| (entry[0], entry[1])));
            }
            opcode::BINPUT => self.remember(input.byte()?.into())?,
            opcode::LONG_BINPUT => self.remember(input.u32()?)?,
            opcode::MEMOIZE => self.remember(self.memo.len() as u32)?,
            opcode::BINGET => self.recall(input.byte()?.into())?,
            opcode::LONG_BINGET => self.recall(input.u32()?)?,
            opcode::BINPERSID => self.persistent_id()?,
            opcode::REDUCE => self.reduce()?,
            // A state dict has the attribute `_metadata` with version numbers, which are not needed.
            opcode::BUILD => {
                self.pop()?;
                self.dict_on_top().context("setting attributes of an object that is not a dictionary")?;
            }
            _ => bail!(
                "opcode 0x{opcode:02x} ({}), which no table of weights needs: refused, nothing was executed; save the model's state dict \
                 alone",
                opcode::name(opcode)
            ),
        }
        Ok(())
    }

    /// The tensors of the dictionary `root`, or of one inside it.
    fn state_dict(&self, root: Value) -> Result<StateDict> {
        let mut found = StateDict::default();
        let Value::Dict(mut at) = root else { bail!("the pickle holds {} and not a dictionary of tensors", describe(root)) };
        let mut visited = HashSet::new();
        while visited.insert(at) {
            let mut inner = Vec::new();
            let mut seen = HashMap::new();
            for (key, value) in &self.dicts[at] {
                let Value::Str(key) = *key else {
                    found.left_out.push((format!("({})", describe(*key)), describe(*value)));
                    continue;
                };
                let name = &self.strings[key];
                match *value {
                    Value::Tensor(tensor) => {
                        // As in Python, the last entry of a key counts.
                        let tensor = PickledTensor { name: name.clone(), ..self.tensors[tensor].clone() };
                        let index = *seen.entry(name.as_str()).or_insert(found.tensors.len());
                        match found.tensors.get_mut(index) {
                            Some(earlier) => *earlier = tensor,
                            None => found.tensors.push(tensor),
                        }
                    }
                    Value::Dict(dict) if STATE_DICT_KEYS.contains(&name.as_str()) => inner.push((name, dict)),
                    other => found.left_out.push((name.clone(), describe(other))),
                }
            }
            if !found.tensors.is_empty() || inner.is_empty() {
                found.left_out.extend(inner.into_iter().map(|(name, _)| (name.clone(), "a dictionary")));
                return Ok(found);
            }
            inner.sort_by_key(|(name, _)| STATE_DICT_KEYS.iter().position(|key| key == name));
            ensure!(inner.len() == 1, "it has the dictionaries `{}` and `{}`: save the model's state dict alone", inner[0].0, inner[1].0);
            found.inside.push(inner[0].0.clone());
            at = inner[0].1;
        }
        bail!("a dictionary contains itself")
    }

    fn top(&self) -> Result<Value> {
        self.stack.last().copied().context("the stack is empty")
    }

    fn expect_top(&self, expected: Value) -> Result<()> {
        let found = self.top()?;
        ensure!(found == expected, "{} where {} is expected", describe(found), describe(expected));
        Ok(())
    }

    fn pop(&mut self) -> Result<Value> {
        self.stack.pop().context("the stack is empty")
    }

    fn pop_string(&mut self) -> Result<String> {
        match self.pop()? {
            Value::Str(index) => Ok(self.strings[index].clone()),
            other => bail!("{} where a string is expected", describe(other)),
        }
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value>> {
        let mark = self.stack.iter().rposition(|value| *value == Value::Mark).context("no mark on the stack")?;
        let items = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(items)
    }

    /// A little-endian two's complement number. One of more than eight bytes is a value without a number: it is not a size.
    fn push_long(&mut self, bytes: &[u8]) {
        if bytes.len() > 8 {
            return self.stack.push(Value::Float);
        }
        let mut wide = [if bytes.last().is_some_and(|byte| byte & 0x80 != 0) { 0xff } else { 0 }; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        self.stack.push(Value::Int(i64::from_le_bytes(wide)));
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
        match self.top()? {
            Value::Dict(index) => Ok(&mut self.dicts[index]),
            other => bail!("{} where a dictionary is expected", describe(other)),
        }
    }

    fn remember(&mut self, key: u32) -> Result<()> {
        let value = self.top()?;
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
            other => bail!("{} where a tuple is expected", describe(other)),
        }
    }

    fn sizes(&self, value: Value) -> Result<Vec<usize>> {
        self.tuple(value)?.iter().map(|size| self.size(*size)).collect()
    }

    fn size(&self, value: Value) -> Result<usize> {
        match value {
            Value::Int(size) => usize::try_from(size).with_context(|| format!("{size} where a size is expected")),
            other => bail!("{} where a size is expected", describe(other)),
        }
    }

    fn persistent_id(&mut self) -> Result<()> {
        let id = self.pop()?;
        // ('storage', torch.FloatStorage, key, location, number of elements)
        let &[Value::Str(kind), Value::Global(Global::Storage(dtype)), Value::Str(key), _, len] = self.tuple(id)? else {
            bail!("a persistent id that is not a storage")
        };
        ensure!(self.strings[kind] == "storage", "a persistent id `{}`, expected `storage`", self.strings[kind]);
        self.size(len)?;
        self.storages.push((self.strings[key].clone(), Dtype::named(dtype)));
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
            // (sizes,)
            Value::Global(Global::Size) => {
                let &[sizes @ Value::Tuple(_)] = arguments else { bail!("torch.Size without a tuple") };
                self.stack.push(sizes);
            }
            // (storage, first element, sizes, strides, requires_grad, hooks[, metadata])
            Value::Global(Global::RebuildTensor) => {
                let &[Value::Storage(storage), offset, shape, strides, ..] = arguments else {
                    bail!("_rebuild_tensor_v2 without a storage, offset, sizes and strides")
                };
                let (storage, dtype) = self.storages[storage].clone();
                let (offset, shape, strides) = (self.size(offset)?, self.sizes(shape)?, self.sizes(strides)?);
                ensure!(shape.len() == strides.len(), "a tensor of {} sizes and {} strides", shape.len(), strides.len());
                self.tensors.push(PickledTensor { name: String::new(), storage, dtype, offset, shape, strides });
                self.stack.push(Value::Tensor(self.tensors.len() - 1));
            }
            // (tensor, requires_grad, hooks)
            Value::Global(Global::RebuildParameter) => {
                let Some(tensor @ Value::Tensor(_)) = arguments.first().copied() else { bail!("_rebuild_parameter without a tensor") };
                self.stack.push(tensor);
            }
            other => bail!("a call of {}", describe(other)),
        }
        Ok(())
    }
}

fn describe(value: Value) -> &'static str {
    match value {
        Value::None => "None",
        Value::Bool => "a truth value",
        Value::Int(_) | Value::Float => "a number",
        Value::Bytes => "bytes",
        Value::Mark => "a mark",
        Value::Str(_) => "a string",
        Value::Tuple(_) => "a tuple",
        Value::Dict(_) => "a dictionary",
        Value::List => "a list",
        Value::Set => "a set",
        Value::Global(_) => "a function",
        Value::Storage(_) => "a storage",
        Value::Tensor(_) => "a tensor",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `_rebuild_tensor_v2(('storage', BFloat16Storage, '0', 'cpu', 6), 2, (2, 2), (2, 1), False, OrderedDict())`
    fn tensor(module: &str, function: &str) -> Vec<u8> {
        let mut bytes = format!("c{module}\n{function}\n").into_bytes();
        bytes.extend(b"((X\x07\x00\x00\x00storagectorch\nBFloat16Storage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06tQ");
        bytes.extend(b"K\x02K\x02K\x02\x86K\x02K\x01\x86\x89ccollections\nOrderedDict\n)RtR");
        bytes
    }

    /// `{"w": tensor}`
    fn pickle(module: &str, function: &str) -> Vec<u8> {
        [b"\x80\x02}q\x00X\x01\x00\x00\x00w", tensor(module, function).as_slice(), b"s."].concat()
    }

    fn key(name: &str) -> Vec<u8> {
        [&[opcode::SHORT_BINUNICODE, name.len() as u8], name.as_bytes()].concat()
    }

    /// A dictionary of keys and the pickles of their values.
    fn dict(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
        let entries = entries.iter().flat_map(|(name, value)| [key(name), value.clone()].concat()).collect::<Vec<_>>();
        [b"}(".as_slice(), &entries, b"u"].concat()
    }

    fn read(value: &[u8]) -> Result<StateDict> {
        read_state_dict(&[b"\x80\x04", value, b"."].concat())
    }

    fn sound() -> Vec<u8> {
        tensor("torch._utils", "_rebuild_tensor_v2")
    }

    #[test]
    fn reads_a_view() {
        let found = read_state_dict(&pickle("torch._utils", "_rebuild_tensor_v2")).unwrap();
        let want =
            PickledTensor { name: "w".into(), storage: "0".into(), dtype: Dtype::Bf16, offset: 2, shape: vec![2, 2], strides: vec![2, 1] };
        assert_eq!(found, StateDict { tensors: vec![want], ..StateDict::default() });
    }

    #[test]
    fn plain_data_next_to_the_tensors_is_reported_by_key() {
        let half = [b"G".as_slice(), &0.5f64.to_be_bytes()].concat();
        let found = read(&dict(&[
            ("loss", half.clone()),
            ("steps", [b"](", half.as_slice(), b"K\x01e"].concat()),
            ("one", b"]K\x01a".to_vec()),
            ("seen", b"\x8f(K\x01\x90".to_vec()),
            ("fixed", b"(K\x01\x91".to_vec()),
            ("seed", b"\x8a\x09\0\0\0\0\0\0\0\0\x01".to_vec()),
            ("digest", b"C\x02ab".to_vec()),
            ("w", sound()),
            ("shape", b"ctorch\nSize\n(K\x02K\x02t\x85R".to_vec()),
            ("optimizer", dict(&[("state", sound())])),
            ("state_dict", dict(&[])),
        ]))
        .unwrap();
        assert_eq!(found.tensors.len(), 1);
        let want = [
            ("loss", "a number"),
            ("steps", "a list"),
            ("one", "a list"),
            ("seen", "a set"),
            ("fixed", "a set"),
            ("seed", "a number"),
            ("digest", "bytes"),
            ("shape", "a tuple"),
            ("optimizer", "a dictionary"),
            ("state_dict", "a dictionary"),
        ];
        assert_eq!(found.left_out, want.map(|(key, kind)| (key.to_owned(), kind)));
    }

    #[test]
    fn nested_state_dicts_are_found() {
        let weights = dict(&[("w", sound())]);
        let found = read(&dict(&[("epoch", b"K\x03".to_vec()), ("state_dict", weights.clone())])).unwrap();
        assert_eq!((found.tensors.len(), &found.inside[..]), (1, &["state_dict".to_owned()][..]));
        assert_eq!(found.left_out, [("epoch".to_owned(), "a number")]);
        let deeper = read(&dict(&[("module", dict(&[("model", weights.clone())]))])).unwrap();
        assert_eq!((deeper.tensors.len(), &deeper.inside[..]), (1, &["module".to_owned(), "model".to_owned()][..]));

        let error = format!("{:#}", read(&dict(&[("model", weights.clone()), ("module", weights)])).unwrap_err());
        assert!(error.contains("`model` and `module`"), "{error}");
        // `d = {}; d["model"] = d`
        let error = format!("{:#}", read(b"}q\x00\x8c\x05modelh\x00s").unwrap_err());
        assert!(error.contains("contains itself"), "{error}");
    }

    #[test]
    fn the_last_entry_of_a_key_counts() {
        let at = sound().windows(4).position(|window| window == b"K\x02K\x02").unwrap();
        let mut other = sound();
        other[at + 1] = 0;
        let found = read(&dict(&[("w", sound()), ("w", other)])).unwrap();
        assert_eq!(found.tensors.iter().map(|tensor| tensor.offset).collect::<Vec<_>>(), [0]);
    }

    #[test]
    fn refuses_other_functions_by_name() {
        for (module, function) in [("os", "system"), ("builtins", "eval"), ("torch", "load"), ("torch._utils", "_rebuild_tensor_v3")] {
            let error = format!("{:#}", read_state_dict(&pickle(module, function)).unwrap_err());
            assert!(error.contains(&format!("`{module}.{function}`")), "{error}");
        }
        // The same by STACK_GLOBAL, as newer protocols write it.
        let error = format!("{:#}", read(b"\x8c\x05posix\x8c\x06system\x93").unwrap_err());
        assert!(error.contains("`posix.system`"), "{error}");
    }

    #[test]
    fn refuses_calls_of_values_and_other_opcodes() {
        let error = format!("{:#}", read_state_dict(b"\x80\x02X\x01\x00\x00\x00a)R.").unwrap_err());
        assert!(error.contains("a call of a string"), "{error}");
        for (opcode, name) in [(0x69, "INST"), (0x6f, "OBJ"), (0x81, "NEWOBJ"), (0x82, "EXT"), (0x92, "NEWOBJ_EX")] {
            let error = format!("{:#}", read_state_dict(&[0x80, 2, opcode, b'.']).unwrap_err());
            assert!(error.contains(&format!("0x{opcode:02x} ({name})")), "{error}");
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
