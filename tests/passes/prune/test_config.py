"""Pruned modules made anew from a configuration: one of our own, and those of the transformers library."""

import copy

import pytest
import torch
from torch import nn

import graphopt as go
from graphopt.errors import OptionError, SaveError
from graphopt.passes.prune import fit_config, rebuild
from graphopt.runtime import run


class Config:
    """Whole numbers by name, one of them unset, and a configuration inside."""

    def __init__(self):
        self.width, self.heads, self.head_dim, self.inner, self.layers = 16, 4, 4, None, 2
        self.output = type(self).__new__(type(self))
        self.output.classes = 3
        self.output.hidden = 10
        self.name = "net"


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        if config.heads % 2:
            raise ValueError("an even number of heads, please")
        self.head_dim = config.head_dim
        self.q, self.k, self.v = (nn.Linear(config.width, config.heads * config.head_dim) for _ in range(3))
        self.o = nn.Linear(config.heads * config.head_dim, config.width)

    def forward(self, x):
        q, k, v = (each(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for each in (self.q, self.k, self.v))
        return self.o(torch.softmax(q @ k.transpose(2, 3) / 2, -1).matmul(v).transpose(1, 2).flatten(2))


class Net(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        inner = config.inner or 4 * config.width
        self.inlet, self.norm = nn.Linear(5, config.width), nn.LayerNorm(config.width)
        self.blocks = nn.ModuleList(
            nn.ModuleList([
                Attention(config),
                nn.Sequential(nn.Linear(config.width, inner), nn.GELU(), nn.Linear(inner, config.width)),
            ])
            for _ in range(config.layers)
        )  # fmt: skip
        out = config.output
        self.head = nn.Sequential(nn.Linear(config.width, out.hidden), nn.ReLU(), nn.Linear(out.hidden, out.classes))

    def forward(self, x):
        x = self.inlet(x)
        for attention, feed in self.blocks:
            x = x + attention(x)
            x = x + feed(x)
        return self.head(self.norm(x))


def captured():
    torch.manual_seed(4)
    module = Net(Config()).eval()
    return module, go.capture(module, (torch.randn(2, 6, 5),), dynamic=[{0: "batch"}])


def told(config):
    return {**vars(config), **vars(config.output)}


@pytest.mark.parametrize(("options", "wanted"), [
    ("kinds=[heads]", {"heads": 2}),
    ("kinds=[heads],ignore=['head*']", {"heads": 2}),
    ("kinds=[ffn]", {"inner": 32, "hidden": 5}),
    ("kinds=[ffn,heads],ignore=[head.0]", {"inner": 32, "heads": 2}),
    ("kinds=[embedding]", {"width": 8, "inner": 64}),
])  # fmt: skip
def test_numbers_follow(options, wanted):
    module, graph = captured()
    before = told(module.config)
    state = copy.deepcopy(module.state_dict())
    go.optimize(graph, f"prune-channels{{ratio=0.5,{options}}}")
    made = rebuild(graph, module)
    after = told(made.config)
    assert {name: after[name] for name in after if name != "output" and after[name] != before[name]} == wanted
    assert type(made) is Net
    assert told(module.config).items() == before.items()
    assert all(torch.equal(tensor, state[name]) for name, tensor in module.state_dict().items())
    x = torch.randn(3, 6, 5)
    torch.testing.assert_close(made(x).detach(), run(graph, [x])[0], rtol=1e-4, atol=1e-5)
    assert told(fit_config(graph, module)).keys() == before.keys()


def test_numbers_that_have_the_shapes_but_not_the_meaning_are_passed_over():
    """Half of the offsets within heads has the shapes of half of the heads; only the results tell."""
    module, graph = captured()
    go.optimize(graph, "prune-channels{ratio=0.5,kinds=[head-dim]}")
    made = rebuild(graph, module)
    assert (made.config.heads, made.config.head_dim) == (4, 2)


def test_what_the_class_cannot_say_is_named():
    module, graph = captured()
    go.optimize(graph, "prune-channels{ratio=0.5,kinds=[ffn],ignore=['blocks.0.*','head*']}")
    with pytest.raises(SaveError, match=r"no configuration of Net .*blocks\.\d\.1\.0\.weight \[\d+, 16\] instead of"):
        rebuild(graph, module)
    _, graph = captured()
    go.optimize(graph, "prune-channels{ratio=0.75,kinds=[heads]}")  # one head, which the class refuses
    with pytest.raises(SaveError, match="no configuration of Net makes") as caught:
        rebuild(graph, module)
    assert "uniform" in caught.value.hint


def test_blocks_that_are_gone_have_no_number():
    module, graph = captured()
    go.optimize(graph, "prune-depth{blocks=1}")
    with pytest.raises(SaveError, match="with its numbers as they are it has the sizes, and gives other results"):
        rebuild(graph, module)


def test_a_module_without_a_configuration():
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    with pytest.raises(OptionError, match="no config"):
        rebuild(go.capture(module, (torch.randn(1, 4),)), module)


TEXT = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


def transformers_model(name):
    hf = pytest.importorskip("transformers")
    ends = {"bos_token_id": 1, "eos_token_id": 2, "use_cache": False}
    torch.manual_seed(0)
    if name == "llama":
        module = hf.LlamaForCausalLM(hf.LlamaConfig(**TEXT, **ends, pad_token_id=0, num_key_value_heads=2))
    elif name == "bert":
        module = hf.BertModel(hf.BertConfig(**TEXT, max_position_embeddings=32))
    else:
        module = hf.GPT2LMHeadModel(
            hf.GPT2Config(vocab_size=61, n_embd=32, n_layer=2, n_head=4, n_positions=32, **ends)
        )
    with torch.no_grad():  # with the library's own small weights whole layers hardly count
        for parameter in module.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, (parameter.shape[0] / parameter.numel()) ** 0.5)
    ids = torch.randint(3, 61, (2, 7))
    return (
        module.eval(),
        go.capture(module.eval(), (), {"input_ids": ids}, dynamic={"input_ids": {0: "b", 1: "s"}}),
        ids,
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "kinds", "wanted"), [
    ("llama", "heads,ffn", {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 24}),
    ("bert", "ffn", {"intermediate_size": 24}),
])  # fmt: skip
def test_transformers(name, kinds, wanted, tmp_path):
    module, graph, ids = transformers_model(name)
    go.optimize(graph, f"prune-channels{{ratio=0.5,kinds=[{kinds}]}}", [(ids,)])
    made = rebuild(graph, module, example=[ids])
    before, after = module.config.to_dict(), made.config.to_dict()
    assert {key: after[key] for key in after if after[key] != before[key]} == wanted
    made.save_pretrained(tmp_path)
    again = type(module).from_pretrained(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(again(ids)[0], run(graph, [ids])[0], rtol=1e-4, atol=1e-4)


def test_transformers_whose_heads_have_no_number():
    module, graph, ids = transformers_model("gpt2")
    go.optimize(graph, "prune-channels{ratio=0.5,kinds=[heads]}", [(ids,)])
    with pytest.raises(SaveError, match=r"attn\.c_attn"):
        rebuild(graph, module, example=[ids])
