from service.conftest import site as site
