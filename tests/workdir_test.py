"""Whose folder it is: config and pixels must agree."""

import json

import ml_collections
import pytest

from jaxreid import workdir


def make_config(**changes) -> ml_collections.ConfigDict:
  config = ml_collections.ConfigDict(
    {
      'seed': 0,
      'profile_steps': 0,
      'dataset': {'name': 'made_up', 'data_dir': '', 'size': (4, 2)},
    }
  )
  config.update_from_flattened_dict(changes)
  return config


def test_a_run_goes_on_with_the_same_config_and_pixels(tmp_path):
  folder = workdir.open_workdir(tmp_path / 'run', make_config())
  workdir.claim(folder, make_config(), 'abc')
  again = make_config(**{'dataset.data_dir': '/elsewhere', 'profile_steps': 5})
  assert workdir.open_workdir(folder, again) == folder
  workdir.claim(folder, again, 'abc')


def test_another_config_is_named(tmp_path):
  workdir.claim(tmp_path, make_config(), 'abc')
  with pytest.raises(ValueError, match=r'seed 0 -> 1.*another --workdir'):
    workdir.open_workdir(tmp_path, make_config(seed=1))


def test_other_pixels_are_refused(tmp_path):
  workdir.claim(tmp_path, make_config(), 'abc')
  with pytest.raises(ValueError, match=r'other pixels of made_up.*abc.*def'):
    workdir.claim(tmp_path, make_config(), 'def')
  assert json.loads((tmp_path / workdir.DATA).read_text()) == {
    'fingerprint': 'abc'
  }


def test_a_run_that_must_exist_does(tmp_path):
  with pytest.raises(ValueError, match='holds no run to evaluate'):
    workdir.open_workdir(tmp_path, make_config(), exists=True)


def test_an_unreadable_config_is_named(tmp_path):
  (tmp_path / workdir.CONFIG).write_text('{"seed": ')
  with pytest.raises(ValueError, match=r'config\.json cannot be read'):
    workdir.open_workdir(tmp_path, make_config())


def test_a_file_in_the_way_is_named(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(ValueError, match='cannot be written'):
    workdir.open_workdir(tmp_path / 'file' / 'run', make_config())


def test_replacing_leaves_no_part(tmp_path):
  path = tmp_path / 'results.md'
  workdir.replace_text(path, 'old')
  workdir.replace_text(path, 'new')
  assert path.read_text() == 'new'
  assert list(tmp_path.iterdir()) == [path]


def test_another_trial_is_refused_with_the_reason(tmp_path):
  trial = {'dataset': {'name': 'regdb', 'layout': 'regdb', 'config': 'trial_1'}}
  first = ml_collections.ConfigDict(trial)
  workdir.claim(tmp_path, first, 'abc')
  second = first.copy_and_resolve_references()
  second.dataset.config = 'trial_2'
  with pytest.raises(ValueError) as error:
    workdir.open_workdir(tmp_path, second, exists=True)
  assert "'trial_1' -> 'trial_2'" in str(error.value)
  assert 'people whom the models of other trials were trained on' in str(
    error.value
  )


def test_how_to_evaluate_may_change(tmp_path):
  config = make_config()
  config.evaluation = {'rerank': False}
  config.evaluator = 'x'
  workdir.claim(tmp_path, config, 'abc')
  other = config.copy_and_resolve_references()
  other.evaluation.rerank = True
  assert workdir.open_workdir(tmp_path, other) == tmp_path
  other.evaluator = 'y'
  with pytest.raises(ValueError, match='evaluator'):
    workdir.open_workdir(tmp_path, other)


def test_a_field_younger_than_the_run_may_be_off(tmp_path):
  workdir.claim(tmp_path, make_config(), 'abc')
  config = make_config()
  config.plugins = {'exchange': 0.0, 'names': ()}
  assert workdir.open_workdir(tmp_path, config) == tmp_path
  config.plugins.exchange = 0.5
  with pytest.raises(ValueError, match=r'plugins.exchange None -> 0.5'):
    workdir.open_workdir(tmp_path, config)
